//! The protocol as a model, explored state by state.
//!
//! Nodes, a primary whose commits are first in the log and later visible, replicas that replay when they
//! like, transactions, drains, fills, marks, restarts, a failover that loses commits, a session. What
//! decides is `tidegate::internals::protocol`, the code that the cache runs on.
//!
//! One answer is followed through each run. Answers do not act on one another, so what can become of any
//! can become of that one: it may be made by any node at any time, and once made it is where every node
//! finds it, for good: in a memory that never evicts, in a Redis that delivers it late, in an old dump.
//! In each state, each node whose fences let it pass serves it, and the promises are checked.
//!
//! Each world in `worlds` bounds one part of that, and is explored to its end. Each rule of the protocol
//! has a mutant that breaks it; one that its world does not catch fails the test.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod node;
mod primary;
mod rules;
mod state;
mod steps;
mod worlds;

use rules::Mutant;
use stateright::{Checker, HasDiscoveries, Model};
use worlds::World;

/// Explores a world; returns the number of its states, and which properties do not hold in it.
fn explore(world: World) -> (usize, Vec<&'static str>) {
    let checker = world.checker().threads(2).finish_when(HasDiscoveries::Any).spawn_bfs().join();
    let mut broken: Vec<_> = checker.discoveries().into_keys().collect();
    broken.sort_unstable();
    (checker.unique_state_count(), broken)
}

fn the_promises_hold_in(worlds: &[World]) {
    let mut all = 0;
    for &world in worlds {
        let name = world.name;
        let (states, broken) = explore(world);
        println!("{name}: {states} states");
        assert!(broken.is_empty(), "{name}: {broken:?}");
        assert!(states > 1000, "{name} is all but empty: {states} states");
        all += states;
    }
    println!("in all: {all} states");
}

#[test]
fn the_promises_hold_in_every_state() {
    the_promises_hold_in(&World::SMALL);
}

#[test]
#[ignore = "a minute or more: scripts/deep, and after each change of the protocol"]
fn the_promises_hold_in_every_state_of_large_worlds() {
    the_promises_hold_in(&World::LARGE);
}

fn are_caught(mutants: impl Iterator<Item = (Mutant, World)>) {
    let mut survivors = Vec::new();
    for (mutant, world) in mutants {
        let name = world.name;
        let (states, broken) = explore(world.with(mutant));
        println!("{mutant:?}, {name}: {} after {states} states", broken.join(", "));
        if broken.is_empty() {
            survivors.push(mutant);
        }
    }
    assert!(survivors.is_empty(), "not caught: {survivors:?}");
}

#[test]
fn every_mutant_is_caught() {
    are_caught(Mutant::ALL.into_iter().filter(|(_, world)| !world.is_huge()));
}

#[test]
#[ignore = "several GiB of states: scripts/deep, and after each change of the protocol"]
fn the_mutants_of_huge_worlds_are_caught() {
    are_caught(Mutant::ALL.into_iter().filter(|(_, world)| world.is_huge()));
}
