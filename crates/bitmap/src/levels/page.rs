//! Where the words of chunks lie: in pages of 2^28 bits, each made when the first of its bits is set.
//!
//! The words of a page are asked for as one zeroed array, which the operating system fills in where it is touched,
//! 4 KiB at a time, and not before. So a page costs what its dirty places cost, and a bit is found by two loads: its
//! page's, which stays in the first cache, and its word's.

use super::chunk::{Chunk, ChunkMut, Head, count_few};
use super::{LEAVES, MIDS};

/// Chunks of a page. 32 MiB of words: so much is always asked of the system itself, and never of memory that was used
/// before and would have to be zeroed; and no system refuses it.
pub(super) const PAGE_CHUNKS: usize = if cfg!(loom) { 2 } else { 1024 };

const PAGE_WORDS: usize = PAGE_CHUNKS * LEAVES;

/// Nothing at all, until it is touched.
#[derive(Debug, Default)]
struct Page {
    heads: Vec<Head>,
    mids: Vec<u64>,
    leaves: Vec<u64>,
}

/// The words of a hierarchy.
#[derive(Debug)]
pub(super) struct Pages {
    /// By itself, so that with most bitmaps, which have but one, its place stays in a register.
    first: Page,
    more: Vec<Page>,
    /// Chunks of all pages together.
    chunks: usize,
}

impl Pages {
    pub(super) fn new(chunks: u64) -> Pages {
        let chunks = chunks as usize;
        let more = chunks.div_ceil(PAGE_CHUNKS).saturating_sub(1);
        Pages {
            first: Page::default(),
            more: std::iter::repeat_with(Page::default).take(more).collect(),
            chunks,
        }
    }

    pub(super) fn chunks(&self) -> u64 {
        self.chunks as u64
    }

    /// The words of how many chunks were asked for.
    #[cfg(test)]
    pub(super) fn touched(&self) -> usize {
        let more: usize = self.more.iter().map(|page| page.heads.len()).sum();
        self.first.heads.len() + more
    }

    /// Word `word`; zero where nothing was touched.
    #[inline]
    pub(super) fn word(&self, word: u64) -> u64 {
        match self.first.leaves.get(word as usize) {
            Some(&leaf) => leaf,
            None => self.word_beyond(word),
        }
    }

    /// Chunk `number`, if its page was touched.
    #[inline]
    pub(super) fn chunk(&self, number: u64) -> Option<Chunk<'_>> {
        let (page, at) = place(number);
        let page = self.page(page);
        Some(Chunk {
            head: page.heads.get(at)?,
            mids: page.mids.as_chunks().0.get(at)?,
            leaves: page.leaves.as_chunks().0.get(at)?,
        })
    }

    /// Chunk `number`, which has words from here on.
    pub(super) fn chunk_mut(&mut self, number: u64) -> ChunkMut<'_> {
        let (page, at) = place(number);
        if self.page(page).heads.is_empty() {
            self.touch(page);
        }
        let page = self.page_mut(page);
        ChunkMut {
            head: &mut page.heads[at],
            mids: &mut page.mids.as_chunks_mut().0[at],
            leaves: &mut page.leaves.as_chunks_mut().0[at],
        }
    }

    /// Chunk `number`, if its page was touched.
    pub(super) fn chunk_there(&mut self, number: u64) -> Option<ChunkMut<'_>> {
        let there = !self.page(place(number).0).heads.is_empty();
        there.then(|| self.chunk_mut(number))
    }

    /// Adds to word `word` bits of which some are new; says how many those are, and whether they are the first of
    /// their chunk. Nothing if the first page has no such word, or none yet.
    #[inline]
    pub(super) fn add(&mut self, word: u64, bits: u64) -> Option<(u64, bool)> {
        ((word as usize) < self.first.leaves.len()).then(|| self.first.add(word as usize, bits))
    }

    /// As [`word`](Self::word), where the first page does not answer.
    #[inline(never)]
    fn word_beyond(&self, word: u64) -> u64 {
        let (page, at) = (word as usize / PAGE_WORDS, word as usize % PAGE_WORDS);
        self.page(page).leaves.get(at).copied().unwrap_or(0)
    }

    /// As [`add`](Self::add), where the first page does not take it.
    pub(super) fn add_beyond(&mut self, word: u64, bits: u64) -> (u64, bool) {
        let (page, at) = (word as usize / PAGE_WORDS, word as usize % PAGE_WORDS);
        if self.page(page).heads.is_empty() {
            self.touch(page);
        }
        self.page_mut(page).add(at, bits)
    }

    #[inline]
    fn page(&self, page: usize) -> &Page {
        match page.checked_sub(1) {
            None => &self.first,
            Some(more) => &self.more[more],
        }
    }

    #[inline]
    fn page_mut(&mut self, page: usize) -> &mut Page {
        match page.checked_sub(1) {
            None => &mut self.first,
            Some(more) => &mut self.more[more],
        }
    }

    /// Makes a page that is not there.
    #[cold]
    fn touch(&mut self, page: usize) {
        let chunks = (self.chunks - page * PAGE_CHUNKS).min(PAGE_CHUNKS);
        *self.page_mut(page) = Page {
            heads: vec![Head::default(); chunks],
            mids: vec![0; chunks * MIDS],
            leaves: vec![0; chunks * LEAVES],
        };
    }
}

impl Page {
    /// See [`Pages::add`].
    #[inline]
    fn add(&mut self, at: usize, bits: u64) -> (u64, bool) {
        let leaf = &mut self.leaves[at];
        let gained = count_few(bits & !*leaf);
        *leaf |= bits;
        let mid = at / (LEAVES / MIDS);
        // Mostly it says so already; asking first would be a branch that nobody can foresee.
        self.mids[mid] |= 1 << (at % (LEAVES / MIDS));
        let head = &mut self.heads[at / LEAVES];
        let first = head.top == 0;
        head.top |= 1 << (mid % MIDS);
        head.ones.add(gained);
        (gained, first)
    }
}

/// In which page a chunk is, and where in it.
#[inline]
fn place(number: u64) -> (usize, usize) {
    (number as usize / PAGE_CHUNKS, number as usize % PAGE_CHUNKS)
}
