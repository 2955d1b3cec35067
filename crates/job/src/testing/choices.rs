//! Every order of events, one run after the other: a driver cannot be copied, so each run begins anew and
//! repeats the choices of the one before it, up to the last that can still be made otherwise.

/// The choices of one run: what was chosen, of how many.
#[derive(Debug, Default)]
pub(crate) struct Choices {
    trail: Vec<(usize, usize)>,
    at: usize,
}

impl Choices {
    /// One of so many, from 0.
    pub(crate) fn choose(&mut self, of: usize) -> usize {
        if of < 2 {
            return 0;
        }
        if self.at == self.trail.len() {
            self.trail.push((0, of));
        }
        // What tasks of a driver do among themselves may differ from run to run.
        let (chosen, _) = self.trail[self.at];
        self.at += 1;
        chosen.min(of - 1)
    }

    /// Goes on to the next run; false after the last.
    pub(crate) fn next(&mut self) -> bool {
        self.trail.truncate(self.at);
        self.at = 0;
        while let Some((chosen, of)) = self.trail.pop() {
            if chosen + 1 < of {
                self.trail.push((chosen + 1, of));
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sequence_of_choices_is_made_once() {
        let mut choices = Choices::default();
        let mut seen = Vec::new();
        loop {
            let first = choices.choose(2);
            let second = if first == 0 { choices.choose(3) } else { 9 };
            seen.push((first, second));
            if !choices.next() {
                break;
            }
        }
        assert_eq!(seen, [(0, 0), (0, 1), (0, 2), (1, 9)]);
    }
}
