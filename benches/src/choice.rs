//! Which rows of a table are run, as the arguments say: a whole table can take longer than a quiet moment lasts.

/// What the arguments choose.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Exponents of sizes; all, if none was given.
    sizes: Vec<u32>,
    /// Parts of names; all rows, if none was given.
    words: Vec<String>,
}

impl Choice {
    /// `2^N` chooses a size, everything else the rows in whose name it is. What cargo adds is ignored.
    pub fn from_arguments(arguments: impl Iterator<Item = String>) -> Choice {
        let (mut sizes, mut words) = (Vec::new(), Vec::new());
        for argument in arguments.filter(|argument| !argument.starts_with("--")) {
            match argument
                .strip_prefix("2^")
                .and_then(|size| size.parse().ok())
            {
                Some(size) => sizes.push(size),
                None => words.push(argument),
            }
        }
        Choice { sizes, words }
    }

    /// Whether a size of 2^`shift` is wanted.
    pub fn has_size(&self, shift: u32) -> bool {
        self.sizes.is_empty() || self.sizes.contains(&shift)
    }

    /// Whether a row or a part of that name is wanted.
    pub fn has(&self, name: &str) -> bool {
        self.words.is_empty() || self.words.iter().any(|word| name.contains(word.as_str()))
    }
}
