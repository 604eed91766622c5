//! What is in pages that nobody has written: runs of files that nobody writes any more, and zeros.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::content::add_data;
use crate::{MemoryError, PAGE_SIZE};

/// Pages whose content comes from one file, where it is at the same offset as in RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// First byte among all RAM, without the hole below 4 GiB.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// Which of the files; zeros without.
    pub file: Option<usize>,
}

/// The content of all RAM, as far as it is not in private pages.
#[derive(Debug, Clone)]
pub struct Layers {
    files: Vec<Arc<File>>,
    /// By the first byte: length and file. Together they are all RAM.
    runs: BTreeMap<u64, (u64, Option<usize>)>,
}

impl Layers {
    /// The content that others have had, of whom it is believed only what keeps every access inside the files.
    ///
    /// # Errors
    /// The runs are not `size` bytes of whole pages, one behind the other, or a file ends before one of its own.
    pub fn new(
        size: u64,
        files: Vec<File>,
        runs: impl IntoIterator<Item = Run>,
    ) -> Result<Self, MemoryError> {
        let lens = files.iter().map(|file| file.metadata().map(|meta| meta.len()));
        let lens: Vec<u64> =
            lens.collect::<Result<_, _>>().map_err(|source| MemoryError::Map { size, source })?;
        let (mut layers, mut end) = (Self::zeros(size), 0u64);
        for Run { start, len, file } in runs {
            let next = start.checked_add(len).filter(|next| start == end && len > 0 && *next <= size);
            let next = next.filter(|next| next.is_multiple_of(PAGE_SIZE)).ok_or(MemoryError::BadLayers)?;
            if let Some(file) = file {
                let len = *lens.get(file).ok_or(MemoryError::BadLayers)?;
                if len < next {
                    return Err(MemoryError::ShortFile { size: next, len });
                }
            }
            layers.replace(start, len, file);
            end = next;
        }
        layers.files = files.into_iter().map(Arc::new).collect();
        if end == size { Ok(layers) } else { Err(MemoryError::BadLayers) }
    }

    /// Nothing but zeros.
    pub(crate) fn zeros(size: u64) -> Self {
        Self { files: Vec::new(), runs: BTreeMap::from([(0, (size, None))]) }
    }

    /// All of one file's.
    pub(crate) fn whole(size: u64, file: Arc<File>) -> Self {
        Self { files: vec![file], runs: BTreeMap::from([(0, (size, Some(0)))]) }
    }

    /// The files, the oldest first.
    pub fn files(&self) -> &[Arc<File>] {
        &self.files
    }

    /// All runs, the lowest first.
    pub fn runs(&self) -> impl ExactSizeIterator<Item = Run> + '_ {
        self.runs.iter().map(|(&start, &(len, file))| Run { start, len, file })
    }

    /// The file of a run.
    pub(crate) fn file(&self, run: &Run) -> Option<&Arc<File>> {
        self.files.get(run.file?)
    }

    /// What is in a range.
    pub(crate) fn within(&self, start: u64, len: u64) -> impl Iterator<Item = Run> + '_ {
        let end = start + len;
        let first = self.runs.range(..=start).next_back().map_or(start, |(&at, _)| at);
        self.runs.range(first..end).map(move |(&at, &(len, file))| {
            let (from, to) = (at.max(start), (at + len).min(end));
            Run { start: from, len: to - from, file }
        })
    }

    /// Copies out what is in a range, which is inside RAM.
    ///
    /// # Errors
    /// What the host says.
    pub fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        for run in self.within(offset, data.len() as u64) {
            let start = (run.start - offset) as usize;
            let part = data.get_mut(start..start + run.len as usize).unwrap_or_default();
            match self.file(&run) {
                Some(file) => file.read_exact_at(part, run.start)?,
                None => part.fill(0),
            }
        }
        Ok(())
    }

    /// Adds the pages from `offset` on at which there is data.
    pub fn look(&self, offset: u64, pages: &mut [bool]) {
        for run in self.within(offset, pages.len() as u64 * PAGE_SIZE) {
            let first = ((run.start - offset) / PAGE_SIZE) as usize;
            let pages = pages.get_mut(first..first + (run.len / PAGE_SIZE) as usize);
            if let (Some(file), Some(pages)) = (self.file(&run), pages) {
                add_data(file, run.start, pages);
            }
        }
    }

    /// A range that will be another file's, with the runs beside it of which no more than `short` would be left, as long as it
    /// does not get out of `within` or longer than by `most`, at each end.
    pub(crate) fn with_slivers(
        &self,
        range: Range<u64>,
        within: &Range<u64>,
        short: u64,
        most: u64,
    ) -> Range<u64> {
        let (mut start, mut end) = (range.start, range.end);
        let piece = |at: u64| self.runs.range(..=at).next_back().filter(|(_, (_, file))| file.is_some());
        while start > within.start
            && let Some((&from, _)) = piece(start - 1)
            && start - from.max(within.start) <= short
            && range.start - from.max(within.start) <= most
        {
            start = from.max(within.start);
        }
        while end < within.end
            && let Some((&from, (len, _))) = piece(end)
            && (from + len).min(within.end) - end <= short
            && (from + len).min(within.end) - range.end <= most
        {
            end = (from + len).min(within.end);
        }
        start..end
    }

    /// One more file, of which nothing is used yet.
    pub(crate) fn push(&mut self, file: Arc<File>) -> usize {
        self.files.push(file);
        self.files.len() - 1
    }

    /// A range has another content.
    pub(crate) fn replace(&mut self, start: u64, len: u64, file: Option<usize>) {
        let (mut start, mut end) = (start, start + len);
        self.split(start);
        self.split(end);
        let gone: Vec<u64> = self.runs.range(start..end).map(|(&at, _)| at).collect();
        gone.iter().for_each(|at| {
            self.runs.remove(at);
        });
        // Neighbours of the same file become one.
        if let Some((&at, &(len, before))) = self.runs.range(..start).next_back()
            && (at + len, before) == (start, file)
        {
            start = at;
        }
        if let Some(&(len, behind)) = self.runs.get(&end)
            && behind == file
        {
            self.runs.remove(&end);
            end += len;
        }
        self.runs.insert(start, (end - start, file));
    }

    /// A run begins there, unless it is the end.
    fn split(&mut self, at: u64) {
        if let Some((&start, run)) = self.runs.range_mut(..at).next_back()
            && start + run.0 > at
        {
            let (len, file) = *run;
            run.0 = at - start;
            self.runs.insert(at, (start + len - at, file));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(layers: &Layers) -> Vec<(u64, u64, Option<usize>)> {
        layers.runs().map(|run| (run.start >> 12, run.len >> 12, run.file)).collect()
    }

    #[test]
    fn runs_are_split_and_joined() {
        let mut layers = Layers::zeros(16 << 12);
        let mut put = |start: u64, len: u64, file| {
            layers.replace(start << 12, len << 12, file);
            plain(&layers)
        };
        assert_eq!(put(4, 4, Some(0)), [(0, 4, None), (4, 4, Some(0)), (8, 8, None)]);
        assert_eq!(put(8, 2, Some(0)), [(0, 4, None), (4, 6, Some(0)), (10, 6, None)]);
        assert_eq!(put(6, 1, None)[1..4], [(4, 2, Some(0)), (6, 1, None), (7, 3, Some(0))]);
        assert_eq!(put(6, 1, Some(0)), [(0, 4, None), (4, 6, Some(0)), (10, 6, None)]);
        assert_eq!(put(2, 12, Some(1)), [(0, 2, None), (2, 12, Some(1)), (14, 2, None)]);
        assert_eq!(put(0, 16, Some(1)), [(0, 16, Some(1))]);
        assert_eq!(put(15, 1, None), [(0, 15, Some(1)), (15, 1, None)]);
        let within: Vec<_> = layers.within(3 << 12, 13 << 12).map(|r| (r.start >> 12, r.len >> 12)).collect();
        assert_eq!(within, [(3, 12), (15, 1)]);
    }

    #[test]
    fn what_others_say_is_checked() {
        let file = || {
            let file = tempfile::tempfile().unwrap();
            file.set_len(8 << 12).unwrap();
            file
        };
        let run = |start: u64, len: u64, file| Run { start: start << 12, len: len << 12, file };
        let new = |runs: &[Run]| Layers::new(10 << 12, vec![file()], runs.iter().copied());
        assert_eq!(
            plain(&new(&[run(0, 8, Some(0)), run(8, 2, None)]).unwrap()),
            [(0, 8, Some(0)), (8, 2, None)]
        );
        for wrong in [
            &[][..],
            &[run(0, 9, Some(0)), run(9, 1, None)],
            &[run(0, 8, Some(0))],
            &[run(0, 8, Some(1)), run(8, 2, None)],
            &[run(1, 7, Some(0)), run(8, 2, None)],
            &[run(0, 8, Some(0)), run(7, 3, None)],
            &[run(0, 8, Some(0)), run(8, 3, None)],
            &[run(0, 0, None), run(0, 10, None)],
            &[Run { start: 0, len: 100, file: None }, Run { start: 100, len: (10 << 12) - 100, file: None }],
            &[Run { start: 0, len: u64::MAX, file: None }, run(0, 10, None)],
        ] {
            assert!(new(wrong).is_err(), "{wrong:?}");
        }
    }
}
