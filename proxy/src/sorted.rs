//! A map of a few entries in one piece of memory. The daemon has hundreds of thousands of them, each with one to five
//! entries, for which the nodes of a tree would be mostly air.

/// Keys and values in the order of keys.
#[derive(Debug, Clone)]
pub(crate) struct Sorted<K, V>(Vec<(K, V)>);

impl<K, V> Default for Sorted<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Ord, V> Sorted<K, V> {
    /// The value at `key`.
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        let place = self.place(key).ok()?;
        Some(&self.0[place].1)
    }

    /// The value at `key`, to be changed.
    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let place = self.place(key).ok()?;
        Some(&mut self.0[place].1)
    }

    /// Puts `value` at `key`.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        match self.place(&key) {
            Ok(place) => self.0[place].1 = value,
            Err(place) => self.0.insert(place, (key, value)),
        }
    }

    /// Removes `key`. Cheap at the end.
    pub(crate) fn remove(&mut self, key: &K) {
        if let Ok(place) = self.place(key) {
            self.0.remove(place);
        }
    }

    /// The keys, in order.
    pub(crate) fn keys(&self) -> impl DoubleEndedIterator<Item = &K> {
        self.0.iter().map(|(key, _)| key)
    }

    /// The values, in the order of keys.
    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.0.iter().map(|(_, value)| value)
    }

    /// Gives back the memory that it grew into and does not need.
    pub(crate) fn shrink(&mut self) {
        self.0.shrink_to_fit();
    }

    fn place(&self, key: &K) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| known.cmp(key))
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for Sorted<K, V> {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(entries: T) -> Self {
        let mut sorted = Self::default();
        for (key, value) in entries {
            sorted.insert(key, value);
        }
        sorted.shrink();
        sorted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_map() {
        let mut sorted: Sorted<u8, u8> = [(3, 30), (1, 10), (3, 31)].into_iter().collect();
        sorted.insert(2, 20);
        assert_eq!(sorted.keys().collect::<Vec<_>>(), [&1, &2, &3]);
        assert_eq!(sorted.values().collect::<Vec<_>>(), [&10, &20, &31]);
        sorted.remove(&1);
        sorted.remove(&9);
        assert_eq!((sorted.get(&1), sorted.get(&2)), (None, Some(&20)));
        if let Some(value) = sorted.get_mut(&2) {
            *value = 21;
        }
        assert_eq!(sorted.get(&2), Some(&21));
    }
}
