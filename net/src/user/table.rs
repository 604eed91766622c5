//! Flows, by what the guest calls them and by a number that epoll knows.

use std::collections::HashMap;
use std::hash::Hash;

/// Names an entry as long as it is there; a later one in its place has another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Id {
    index: u32,
    generation: u32,
}

/// Bits of a generation in a token.
const GENERATION: u32 = 0x0fff_ffff;

impl Id {
    /// As a number for epoll; `kind` is below 16.
    pub fn token(self, kind: u64) -> u64 {
        kind << 60 | u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// What [`token`](Self::token) made: the kind and the name.
    pub fn of_token(token: u64) -> (u64, Self) {
        (token >> 60, Self { index: token as u32, generation: (token >> 32) as u32 & GENERATION })
    }
}

/// A table of at most so many entries as its user allows.
pub struct Table<K, T> {
    keys: HashMap<K, Id>,
    slots: Vec<(u32, Option<(K, T)>)>,
    free: Vec<u32>,
}

impl<K: Hash + Eq + Copy, T> Table<K, T> {
    pub fn new() -> Self {
        Self { keys: HashMap::new(), slots: Vec::new(), free: Vec::new() }
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn find(&self, key: &K) -> Option<Id> {
        self.keys.get(key).copied()
    }

    /// The name of the next entry that is inserted.
    pub fn next_id(&self) -> Id {
        match self.free.last() {
            Some(&index) => Id { index, generation: self.generation(index) },
            None => Id { index: self.slots.len() as u32, generation: 0 },
        }
    }

    fn generation(&self, index: u32) -> u32 {
        self.slots.get(index as usize).map_or(0, |slot| slot.0)
    }

    /// Adds an entry, in place of one with that key.
    pub fn insert(&mut self, key: K, value: T) -> Id {
        if let Some(old) = self.find(&key) {
            self.remove(old);
        }
        let id = self.next_id();
        if self.free.pop().is_none() {
            self.slots.push((0, None));
        }
        if let Some(slot) = self.slots.get_mut(id.index as usize) {
            slot.1 = Some((key, value));
        }
        self.keys.insert(key, id);
        id
    }

    pub fn get_mut(&mut self, id: Id) -> Option<&mut T> {
        let slot = self.slots.get_mut(id.index as usize).filter(|slot| slot.0 == id.generation)?;
        slot.1.as_mut().map(|(_, value)| value)
    }

    pub fn remove(&mut self, id: Id) -> Option<T> {
        let slot = self.slots.get_mut(id.index as usize).filter(|slot| slot.0 == id.generation)?;
        let (key, value) = slot.1.take()?;
        slot.0 = slot.0.wrapping_add(1) & GENERATION;
        self.keys.remove(&key);
        self.free.push(id.index);
        Some(value)
    }

    /// All entries.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Id, &mut T)> {
        self.slots.iter_mut().zip(0..).filter_map(|((generation, entry), index)| {
            let id = Id { index, generation: *generation };
            entry.as_mut().map(|(_, value)| (id, value))
        })
    }

    pub fn clear(&mut self) {
        let all: Vec<_> = self.keys.values().copied().collect();
        for id in all {
            self.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_ends_with_its_entry() {
        let mut table = Table::new();
        let next = table.next_id();
        let a = table.insert("a", 1);
        assert_eq!((a, table.find(&"a"), table.len()), (next, Some(a), 1));
        assert_eq!(Id::of_token(a.token(5)), (5, a));
        assert_eq!((table.remove(a), table.remove(a), table.find(&"a")), (Some(1), None, None));
        let next = table.next_id();
        let b = table.insert("b", 2);
        assert_eq!((b, table.get_mut(a).copied(), table.get_mut(b).copied()), (next, None, Some(2)));
        let again = table.insert("b", 3);
        let found = (table.get_mut(b).copied(), table.get_mut(again).copied());
        assert_eq!((found, table.len()), ((None, Some(3)), 1));
        assert_eq!(table.iter_mut().map(|(id, value)| (id, *value)).collect::<Vec<_>>(), [(again, 3)]);
        table.clear();
        assert_eq!(table.len(), 0);
    }
}
