//! What drivers say that they wait for: each text is kept once, and a waiting job keeps its number.

use std::collections::HashMap;

use crate::sync::Mutex;

/// Stands for a text; 0 for none.
pub(crate) type Reason = u32;

/// The texts that drivers of one engine ever waited with. They live as long as the program, so they are few.
#[derive(Debug, Default)]
pub(crate) struct Reasons(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    numbers: HashMap<&'static str, Reason>,
    texts: Vec<&'static str>,
}

impl Reasons {
    /// The number of a text.
    pub(crate) fn number(&self, text: &'static str) -> Reason {
        let mut known = self.0.lock();
        if let Some(&number) = known.numbers.get(text) {
            return number;
        }
        known.texts.push(text);
        let number = known.texts.len() as Reason;
        known.numbers.insert(text, number);
        number
    }

    /// The text of a number.
    pub(crate) fn text(&self, number: Reason) -> &'static str {
        let known = self.0.lock();
        let at = (number as usize).checked_sub(1);
        at.and_then(|at| known.texts.get(at)).copied().unwrap_or("")
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_one_number() {
        let reasons = Reasons::default();
        let reader = reasons.number("waits for the reader");
        let disk = reasons.number("waits for the disk");
        assert_ne!(reader, disk);
        assert_eq!(reasons.number("waits for the reader"), reader);
        assert_eq!(reasons.text(disk), "waits for the disk");
        assert_eq!(reasons.text(0), "");
    }
}
