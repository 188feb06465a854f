//! The memory that all buffered bodies of a layer may take together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The number of bytes that all bodies which a layer buffers at a time may still take.
#[derive(Clone, Debug)]
pub(crate) struct ByteBudget {
    left: Arc<AtomicUsize>,
    /// What is left of the budget that this one is a part of.
    whole: Option<Arc<AtomicUsize>>,
}

impl ByteBudget {
    pub(crate) fn new(bytes: usize) -> Self {
        Self { left: Arc::new(AtomicUsize::new(bytes)), whole: None }
    }

    /// A part of the budget, for bodies that may leave no more than the rest to others.
    pub(crate) fn part(&self, bytes: usize) -> Self {
        Self { whole: Some(self.left.clone()), ..Self::new(bytes) }
    }

    pub(crate) fn share(&self) -> BudgetShare {
        BudgetShare { budget: self.clone(), taken: 0 }
    }

    fn take(&self, bytes: usize) -> bool {
        if !take_from(&self.left, bytes) {
            return false;
        }
        let taken = self.whole.as_ref().is_none_or(|whole| take_from(whole, bytes));
        if !taken {
            self.left.fetch_add(bytes, Ordering::Relaxed);
        }
        taken
    }

    fn release(&self, bytes: usize) {
        self.left.fetch_add(bytes, Ordering::Relaxed);
        if let Some(whole) = &self.whole {
            whole.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

fn take_from(left: &AtomicUsize, bytes: usize) -> bool {
    let less = |left: usize| left.checked_sub(bytes);
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
}

/// One body's share of the budget, returned on drop.
#[derive(Debug)]
pub(crate) struct BudgetShare {
    budget: ByteBudget,
    taken: usize,
}

impl BudgetShare {
    /// Takes bytes from the budget; `false` if not enough are left.
    pub(crate) fn take(&mut self, bytes: usize) -> bool {
        let taken = self.budget.take(bytes);
        self.taken += if taken { bytes } else { 0 };
        taken
    }
}

impl Drop for BudgetShare {
    fn drop(&mut self) {
        self.budget.release(self.taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_budget_is_bounded_and_released() {
        let budget = ByteBudget::new(10);
        let (mut one, mut other) = (budget.share(), budget.share());
        assert!(one.take(6) && !other.take(5) && other.take(4) && !one.take(1));
        drop(one);
        assert!(other.take(6) && !other.take(1));
    }

    #[test]
    fn a_part_of_the_byte_budget_leaves_the_rest_to_others() {
        let budget = ByteBudget::new(10);
        let parts = budget.part(4);
        let (mut part, mut other) = (parts.share(), budget.share());
        assert!(part.take(3) && !part.take(2) && other.take(6) && !other.take(2));
        assert!(other.take(1) && !part.take(1), "the whole is used up");
        drop(part);
        assert!(other.take(3) && !parts.share().take(1));
        drop(other);
        assert!(parts.share().take(4) && budget.share().take(10));
    }
}
