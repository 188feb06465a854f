//! A batch of reads, of which some are sent together and the others one by one.

use futures_util::future::{join, join_all};

use super::error::StoreError;
use super::found::Found;
use crate::entry::Key;

/// The most keys that one command reads: all of its values arrive in one reply.
pub(super) const MOST_TOGETHER: usize = 64;

/// [`Store::get_many`](super::Store::get_many), with some keys read together and the others one by one.
pub(super) async fn get_split<'k, T, A>(
    keys: &[&'k Key],
    is_together: impl Fn(&Key) -> bool,
    together: impl FnOnce(Vec<&'k Key>) -> T,
    apart: impl Fn(&'k Key) -> A,
) -> Vec<Result<Option<Found>, StoreError>>
where
    T: Future<Output = Vec<Result<Option<Found>, StoreError>>>,
    A: Future<Output = Result<Option<Found>, StoreError>>,
{
    let are_together: Vec<bool> = keys.iter().map(|key| is_together(key)).collect();
    let those = |together: bool| {
        let keys = keys.iter().zip(&are_together);
        keys.filter(move |(_, is)| **is == together).map(|(key, _)| *key)
    };
    let apart = join_all(those(false).map(apart));
    let (together, apart) = match those(true).collect::<Vec<_>>() {
        none if none.is_empty() => (Vec::new(), apart.await),
        some => join(together(some), apart).await,
    };
    let (mut together, mut apart) = (together.into_iter(), apart.into_iter());
    let next = |is_together| if is_together { together.next() } else { apart.next() };
    are_together.into_iter().filter_map(next).collect()
}

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn results_of_a_split_batch_have_the_order_of_its_keys() {
        let keys: Vec<Key> = (0..6).map(|n| Key::new("k").part([n]).finish()).collect();
        let all: Vec<&Key> = keys.iter().collect();
        let place =
            |key: &Key| Duration::from_secs(keys.iter().position(|it| it == key).unwrap() as u64);
        let result = |key: &Key| Err(StoreError::Timeout(place(key)));
        for together in 0..1_u64 << keys.len() {
            let found = get_split(
                &all,
                |key| together & (1 << place(key).as_secs()) != 0,
                |keys| ready(keys.into_iter().map(result).collect()),
                |key| ready(result(key)),
            );
            let found = found.await.into_iter();
            let places = found.map(|found| match found {
                Err(StoreError::Timeout(place)) => place,
                other => panic!("{other:?}"),
            });
            assert!(places.eq(all.iter().map(|key| place(key))), "{together:b}");
        }
    }
}
