//! What was known of address spaces that are not loaded now. A guest whose programs take turns comes back to few of them, and
//! finds its pages again without leaving translated code for each.

/// Linux has six numbers for address spaces of a CPU (PCIDs) in use.
const SPACES: usize = 8;
/// What is kept of each: what was found last.
const KEPT: usize = 64;

/// Things known of each address space.
pub struct Away<T> {
    /// By numbers that no two have ([`Session::space`](interp::core::Session::space)); zero: none.
    spaces: [(u64, Vec<T>); SPACES],
    next: usize,
}

/// One of the spaces.
#[derive(Clone, Copy)]
pub struct Place(usize);

impl<T> Default for Away<T> {
    fn default() -> Self {
        Self { spaces: std::array::from_fn(|_| (0, Vec::with_capacity(KEPT))), next: 0 }
    }
}

impl<T> Away<T> {
    /// A place for what is known of a space that is left: that of the one which has been away longest.
    pub fn leave(&mut self, space: u64) -> Place {
        let place = self.next;
        self.next = (place + 1) % SPACES;
        let (number, known) = &mut self.spaces[place];
        *number = space;
        known.clear();
        Place(place)
    }

    /// Keeps something there, the last found first. False: there is no room for more.
    pub fn keep(&mut self, Place(place): Place, thing: T) -> bool {
        let known = &mut self.spaces[place].1;
        known.push(thing);
        known.len() < KEPT
    }

    /// A space is loaded: where to find what is known of it.
    pub fn come(&mut self, space: u64) -> Option<Place> {
        let place = self.spaces.iter().position(|(number, _)| *number == space)?;
        self.spaces[place].0 = 0;
        Some(Place(place))
    }

    /// One after the other of what was kept, the last found last.
    pub fn next(&mut self, Place(place): Place) -> Option<T> {
        self.spaces[place].1.pop()
    }

    /// Nothing of it holds any more.
    pub fn clear(&mut self) {
        for (number, known) in &mut self.spaces {
            *number = 0;
            known.clear();
        }
    }
}
