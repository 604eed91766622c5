//! What the guest has looked up and not forgotten: numbers for files, and how to reach them again.
//!
//! A node is known by where it was seen last, a name in another node. A descriptor of it, which can do nothing but
//! name it, is made when one is needed and is kept among the last few: what was dropped is opened again by its name and has
//! to be the same file. Files that are open keep their nodes reachable whatever becomes of the name.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use rustix::io::Errno;

use crate::host::Key;
use crate::wire::ROOT;

/// Most nodes: some 250 MiB.
const MAX_NODES: usize = 1 << 20;
/// Deepest folder that is reached again by names.
const MAX_DEPTH: usize = 1024;

struct Node {
    key: Key,
    /// Where it was seen last.
    parent: u64,
    name: CString,
    /// How often the guest was told of it, and nodes that were seen in it.
    lookups: u64,
    children: u64,
    held: Option<Arc<OwnedFd>>,
    /// It was used since the last search for descriptors to drop.
    recent: bool,
    /// Open files of it.
    open: Vec<Weak<OwnedFd>>,
}

impl Node {
    fn descriptor(&mut self) -> Option<Arc<OwnedFd>> {
        self.recent = true;
        self.held.clone().or_else(|| self.open.iter().find_map(Weak::upgrade))
    }
}

/// How to reach a node.
pub enum Way {
    /// It is held.
    Held(Arc<OwnedFd>),
    /// By names from something that is held on, the next one last.
    Names(Arc<OwnedFd>, Vec<Step>),
}

/// A name in the folder before.
pub struct Step {
    pub node: u64,
    pub key: Key,
    pub name: CString,
}

/// All nodes of a share.
pub struct Nodes {
    by_number: HashMap<u64, Node>,
    by_key: HashMap<Key, u64>,
    next: u64,
    /// Nodes that were given a descriptor, in that order.
    holding: VecDeque<u64>,
    most_held: usize,
}

impl Nodes {
    /// The root alone, with at most so many descriptors besides.
    pub fn new(root: Arc<OwnedFd>, key: Key, most_held: usize) -> Self {
        let node = Node {
            key,
            parent: ROOT,
            name: CString::default(),
            lookups: 1,
            children: 0,
            held: Some(root),
            recent: true,
            open: Vec::new(),
        };
        Self {
            by_number: HashMap::from([(ROOT, node)]),
            by_key: HashMap::from([(key, ROOT)]),
            next: ROOT + 1,
            holding: VecDeque::new(),
            most_held: most_held.max(1),
        }
    }

    /// There is nothing but the root.
    pub fn is_empty(&self) -> bool {
        self.by_number.len() <= 1
    }

    /// The guest is told of the file `key` under a name in a folder; its number.
    ///
    /// # Errors
    /// ENFILE: it knows too many.
    pub fn enter(&mut self, key: Key, folder: bool, parent: u64, name: &CStr) -> Result<u64, Errno> {
        if !self.by_number.contains_key(&parent) {
            return Err(Errno::STALE);
        }
        let number = match self.by_key.entry(key) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(_) if self.by_number.len() >= MAX_NODES => return Err(Errno::NFILE),
            Entry::Vacant(new) => {
                let number = self.next;
                self.next += 1;
                new.insert(number);
                let (name, open) = (name.to_owned(), Vec::new());
                let node =
                    Node { key, parent, name, lookups: 1, children: 0, held: None, recent: false, open };
                self.by_number.insert(number, node);
                self.adopt(parent);
                return Ok(number);
            }
        };
        self.place(number, folder, parent, name);
        if let Some(node) = self.by_number.get_mut(&number) {
            node.lookups = node.lookups.saturating_add(1);
        }
        Ok(number)
    }

    /// A file that the guest may know was seen elsewhere.
    pub fn moved(&mut self, key: Key, folder: bool, parent: u64, name: &CStr) {
        if let (Some(&number), true) = (self.by_key.get(&key), self.by_number.contains_key(&parent)) {
            self.place(number, folder, parent, name);
        }
    }

    fn place(&mut self, number: u64, folder: bool, parent: u64, name: &CStr) {
        // A folder that the host has moved into one of its own, as far as is known: the truth comes with the next look.
        if number == ROOT || folder && self.ancestors(parent).any(|above| above == number) {
            return;
        }
        let Some(node) = self.by_number.get_mut(&number) else { return };
        if node.name.as_c_str() != name {
            node.name = name.to_owned();
        }
        let before = std::mem::replace(&mut node.parent, parent);
        if before != parent {
            self.adopt(parent);
            self.leave(before);
        }
    }

    /// A node and what it was seen in, up to the root.
    fn ancestors(&self, number: u64) -> impl Iterator<Item = u64> + '_ {
        let above = |&number: &u64| self.by_number.get(&number).map(|node| node.parent);
        std::iter::successors(Some(number), move |number| above(number).filter(|_| *number != ROOT))
    }

    fn adopt(&mut self, parent: u64) {
        if let Some(node) = self.by_number.get_mut(&parent) {
            node.children += 1;
        }
    }

    /// One node less is in `parent`.
    fn leave(&mut self, parent: u64) {
        if let Some(node) = self.by_number.get_mut(&parent) {
            node.children = node.children.saturating_sub(1);
        }
        self.collect(parent);
    }

    /// The guest forgets that it was told so often.
    pub fn forget(&mut self, number: u64, lookups: u64) {
        if number == ROOT {
            return;
        }
        if let Some(node) = self.by_number.get_mut(&number) {
            node.lookups = node.lookups.saturating_sub(lookups);
        }
        self.collect(number);
    }

    /// Drops a node that nobody knows, and then what only it was in.
    fn collect(&mut self, mut number: u64) {
        while number != ROOT {
            match self.by_number.get(&number) {
                Some(node) if node.lookups == 0 && node.children == 0 => {}
                _ => return,
            }
            let Some(node) = self.by_number.remove(&number) else { return };
            self.by_key.remove(&node.key);
            number = node.parent;
            if let Some(parent) = self.by_number.get_mut(&number) {
                parent.children = parent.children.saturating_sub(1);
            }
        }
    }

    /// How to reach a node.
    ///
    /// # Errors
    /// ESTALE: there is no such node any more.
    pub fn way(&mut self, number: u64) -> Result<Way, Errno> {
        let (mut at, mut steps) = (number, Vec::new());
        loop {
            let node = self.by_number.get_mut(&at).ok_or(Errno::STALE)?;
            match node.descriptor() {
                Some(held) if steps.is_empty() => return Ok(Way::Held(held)),
                Some(held) => return Ok(Way::Names(held, steps)),
                None if steps.len() >= MAX_DEPTH => return Err(Errno::STALE),
                None => {
                    steps.push(Step { node: at, key: node.key, name: node.name.clone() });
                    at = node.parent;
                }
            }
        }
    }

    /// Keeps a node's descriptor, and drops others that nobody uses if there are too many.
    pub fn hold(&mut self, number: u64, held: Arc<OwnedFd>) {
        let Some(node) = self.by_number.get_mut(&number) else { return };
        node.recent = true;
        if node.held.replace(held).is_none() {
            self.holding.push_back(number);
        }
        // Twice around: the first time forgives recent use.
        let mut left = 2 * self.holding.len();
        while self.holding.len() > self.most_held && left > 0 {
            left -= 1;
            let Some(candidate) = self.holding.pop_front() else { return };
            match self.by_number.get_mut(&candidate) {
                Some(node) if node.recent && node.held.is_some() => {
                    node.recent = false;
                    self.holding.push_back(candidate);
                }
                Some(node) => node.held = None,
                None => {}
            }
        }
    }

    /// A node was opened.
    pub fn opened(&mut self, number: u64, file: &Arc<OwnedFd>) {
        if let Some(node) = self.by_number.get_mut(&number) {
            node.open.retain(|open| open.strong_count() > 0);
            node.open.push(Arc::downgrade(file));
        }
    }
}
