//! How much memory a decoded value takes, estimated while it is decoded.
//!
//! The types of elements and fields are known where serde decodes them, so their sizes are exact, and a container announces
//! how many elements it has. The rest is estimated:
//!
//! - A vector that serde can't reserve at once has grown by doubling.
//! - Vectors and B-trees are recognized by their type names; any other sequence or map counts as a hash table.
//! - A value that is larger than its place is in a box, if the place has the size of a pointer.
//!
//! Linked lists take more, and so do boxes whose contents are no larger than a pointer.

use std::any::type_name;

/// What an allocator takes for each block, in bytes: a header, and the rounding up of its size.
const BLOCK: usize = 16;

/// The most bytes that serde reserves for a sequence in advance (`serde::de::size_hint::cautious`).
const AT_ONCE: usize = 1 << 20;

/// The bytes that a value has on the heap.
#[derive(Debug, Default)]
pub(super) struct Owned(usize);

/// How a container holds its elements.
#[derive(Clone, Copy, Debug)]
pub(super) enum ContainerKind {
    Vector,
    Tree,
    Table,
}

/// The elements of a container.
#[derive(Clone, Copy, Debug)]
pub(super) struct Container {
    pub(super) length: usize,
    pub(super) kind: ContainerKind,
    /// Whether room for all elements may be reserved before they are decoded.
    pub(super) is_plausible: bool,
}

impl Owned {
    pub(super) fn bytes(&self) -> usize {
        self.0
    }

    fn add(&mut self, bytes: usize) {
        self.0 = self.0.saturating_add(bytes);
    }

    /// Adds a heap block of `bytes` bytes.
    pub(super) fn block(&mut self, bytes: usize) {
        if bytes > 0 {
            self.add(bytes.saturating_add(BLOCK));
        }
    }

    /// Adds a text or byte string that a `T` is decoded from. A type smaller than a `String` is assumed to parse it.
    pub(super) fn text<T>(&mut self, bytes: usize) {
        if size_of::<T>() >= size_of::<String>() {
            self.block(bytes);
        }
    }

    /// A value of type `T`; returns the size of its place: `place`, or that of a box of its own.
    pub(super) fn place<T>(&mut self, place: usize) -> usize {
        if place == size_of::<usize>() && size_of::<T>() > place {
            self.block(size_of::<T>());
            return size_of::<T>();
        }
        place
    }

    /// A container whose elements take `size` bytes each.
    pub(super) fn container(&mut self, container: Container, size: usize) {
        let bytes = container.length.saturating_mul(size);
        self.block(match container.kind {
            ContainerKind::Vector if container.is_plausible && bytes <= AT_ONCE => bytes,
            ContainerKind::Vector => bytes.saturating_mul(2),
            ContainerKind::Tree => tree(container.length, size),
            ContainerKind::Table => table(container.length, size),
        });
    }
}

impl ContainerKind {
    /// The kind of a container of type `T`.
    pub(super) fn for_type<T>() -> Self {
        // These names are not guaranteed; if they change, every container counts as a hash table.
        match type_name::<T>() {
            name if name.starts_with("alloc::vec::Vec<") => Self::Vector,
            name if name.starts_with("alloc::collections::btree::") => Self::Tree,
            _ => Self::Table,
        }
    }
}

/// The bytes of a hash table: at most 7 of 8 places are taken, their number is a power of two, and each has a byte of
/// its own (hashbrown).
fn table(length: usize, size: usize) -> usize {
    const LEAST: usize = 4;
    const GROUP: usize = 16;
    let places = length.saturating_mul(8) / 7 + 1;
    let places = places.checked_next_power_of_two().unwrap_or(usize::MAX).max(LEAST);
    places.saturating_mul(size.saturating_add(1)).saturating_add(GROUP)
}

/// The bytes of a B-tree: a node has places for eleven elements, of which ascending insertion fills six, and each node
/// above has six or more below it.
fn tree(length: usize, size: usize) -> usize {
    const PLACES: usize = 11;
    const FILLED: usize = 6;
    const NODE: usize = 16 + BLOCK;
    const POINTERS: usize = (PLACES + 1) * size_of::<usize>();
    let leaves = if length <= PLACES { 1 } else { length.div_ceil(FILLED) };
    let inner = if leaves > 1 { leaves.div_ceil(FILLED) } else { 0 };
    let node = size.saturating_mul(PLACES).saturating_add(NODE);
    let nodes = leaves.saturating_add(inner).saturating_mul(node);
    nodes.saturating_add(inner.saturating_mul(POINTERS))
}
