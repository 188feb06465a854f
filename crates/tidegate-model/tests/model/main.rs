//! The protocol as a model, explored state by state.
//!
//! The model has nodes, a primary whose commits are in the log before they are visible, replicas that replay at any time,
//! transactions, drains, fills, marks, restarts, a failover that loses commits, a database that a copy of it replaces, and a
//! session. Changes come from the log table or, in some worlds, from the stream of a logical replication slot. All decisions are made by `tidegate::internals::protocol`, the same code that the cache uses.
//!
//! Each run follows one response. Responses do not affect each other, so one stands for all: any node may compute it at
//! any time, and from then on every node can find it forever, as if in a memory that never evicts, in a Redis that
//! delivers late, or in an old dump. In each state, every node whose fences accept it serves it, and the promises are
//! checked.
//!
//! Each world in `worlds` bounds one part of the model, and is explored completely. Each rule of the protocol has a mutant
//! that breaks it; the test fails if a world does not catch its mutant.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod node;
mod primary;
mod rules;
mod state;
mod steps;
mod stream;
mod worlds;

use rules::Mutant;
use stateright::{Checker, HasDiscoveries, Model};
use worlds::World;

/// Explores a world; returns the number of its states and the properties that are violated.
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
