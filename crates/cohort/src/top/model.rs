//! What was seen of a server, where the user is in it, and what keys do.

use std::collections::VecDeque;
use std::time::Duration;

use super::ask::{Sample, Wish};
use super::rows::{self, JobRow};

/// Rates are those of the last so long.
const WINDOW: Duration = Duration::from_secs(5);

/// A key that means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Up,
    Down,
    First,
    Last,
    Char(char),
    Escape,
    /// Ctrl-C.
    Interrupt,
}

/// What a key leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Leave,
    Ask(Wish),
}

/// What is in front of everything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Front {
    Nothing,
    Help,
    /// Whether this job is to be cancelled.
    Cancel(String),
}

/// All that is shown.
#[derive(Debug)]
pub(super) struct Model {
    /// The server's socket.
    pub(super) server: String,
    /// What was seen within the window, oldest first.
    samples: VecDeque<Sample>,
    /// The job that keys are about.
    chosen: Option<String>,
    pub(super) front: Front,
    /// How the last wish was answered.
    pub(super) said: String,
}

impl Model {
    pub(super) fn new(server: String) -> Self {
        Self {
            server,
            samples: VecDeque::new(),
            chosen: None,
            front: Front::Nothing,
            said: String::new(),
        }
    }

    /// Takes what was seen just now.
    pub(super) fn see(&mut self, sample: Sample) {
        let begin = sample.at.saturating_sub(WINDOW);
        self.samples.push_back(sample);
        while self.samples.len() > 2 && self.samples[0].at < begin {
            self.samples.pop_front();
        }
        let ids: Vec<_> = self.jobs().into_iter().map(|job| job.id).collect();
        let is_there = |id: &String| ids.contains(id);
        if !self.chosen.as_ref().is_some_and(is_there) {
            self.chosen = ids.first().cloned();
        }
        if matches!(&self.front, Front::Cancel(id) if !is_there(id)) {
            self.front = Front::Nothing;
        }
    }

    /// What was seen last, if anything was.
    pub(super) fn now(&self) -> Option<&Sample> {
        self.samples.back()
    }

    /// What rates are measured from.
    pub(super) fn before(&self) -> Option<&Sample> {
        self.samples.front().filter(|_| self.samples.len() > 1)
    }

    /// The jobs in the order in which they are shown.
    pub(super) fn jobs(&self) -> Vec<JobRow> {
        self.now()
            .map_or_else(Vec::new, |now| rows::jobs(now, self.before()))
    }

    /// The place of the chosen job among these.
    pub(super) fn place(&self, jobs: &[JobRow]) -> Option<usize> {
        let chosen = self.chosen.as_ref()?;
        jobs.iter().position(|job| job.id == *chosen)
    }

    /// What a key leads to, if it is more than another picture.
    pub(super) fn press(&mut self, key: Key) -> Option<Order> {
        if matches!(key, Key::Interrupt | Key::Char('q')) {
            return Some(Order::Leave);
        }
        match std::mem::replace(&mut self.front, Front::Nothing) {
            Front::Nothing => self.command(key),
            // Any key goes on.
            Front::Help => None,
            Front::Cancel(id) if key == Key::Char('y') => Some(Order::Ask(Wish::Cancel(id))),
            Front::Cancel(_) => None,
        }
    }

    fn command(&mut self, key: Key) -> Option<Order> {
        let jobs = self.jobs();
        let place = self.place(&jobs);
        let last = jobs.len().saturating_sub(1);
        let go = match (key, place) {
            (Key::Up, Some(at)) => at.saturating_sub(1),
            (Key::Down, Some(at)) => (at + 1).min(last),
            (Key::Last, Some(_)) => last,
            (Key::First, Some(_)) => 0,
            (Key::Char('?' | 'h'), _) => {
                self.front = Front::Help;
                return None;
            }
            (Key::Char('c'), Some(at)) => {
                self.front = Front::Cancel(jobs[at].id.clone());
                return None;
            }
            (Key::Char('p'), Some(at)) => {
                let id = jobs[at].id.clone();
                let wish = match jobs[at].is_paused {
                    true => Wish::Resume(id),
                    false => Wish::Pause(id),
                };
                return Some(Order::Ask(wish));
            }
            (Key::Char(_) | Key::Escape | Key::Interrupt, _) | (_, None) => return None,
        };
        self.chosen = jobs.get(go).map(|job| job.id.clone());
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::tests::{job, sample};
    use super::*;

    fn model() -> Model {
        let mut model = Model::new("s".into());
        model.see(sample(0, vec![job("a"), job("b"), job("c")]));
        model
    }

    fn chosen(model: &Model) -> &str {
        model.chosen.as_deref().unwrap_or("")
    }

    #[test]
    fn arrows_choose_and_stay_among_the_jobs() {
        let mut model = model();
        let mut path = String::new();
        let keys = [
            Key::Up,
            Key::Down,
            Key::Down,
            Key::Down,
            Key::First,
            Key::Last,
            Key::Up,
        ];
        for key in keys {
            assert_eq!(model.press(key), None);
            path.push_str(chosen(&model));
        }
        assert_eq!(path, "abccacb");
    }

    #[test]
    fn what_is_chosen_stays_so_as_long_as_it_is_there() {
        let mut model = model();
        model.press(Key::Down);
        model.see(sample(1, vec![job("b"), job("c")]));
        assert_eq!(chosen(&model), "b");
        model.see(sample(2, vec![job("c")]));
        assert_eq!(chosen(&model), "c");
        model.see(sample(3, Vec::new()));
        assert_eq!(model.chosen, None);
        let keys = [
            Key::Up,
            Key::Last,
            Key::Char('p'),
            Key::Char('c'),
            Key::Char('x'),
        ];
        assert!(keys.into_iter().all(|key| model.press(key).is_none()));
        assert_eq!(model.front, Front::Nothing);
    }

    #[test]
    fn pause_is_a_toggle() {
        let mut model = model();
        let order = model.press(Key::Char('p'));
        assert_eq!(order, Some(Order::Ask(Wish::Pause("a".into()))));
        let mut paused = job("a");
        paused.status = "paused".into();
        model.see(sample(1, vec![paused]));
        let order = model.press(Key::Char('p'));
        assert_eq!(order, Some(Order::Ask(Wish::Resume("a".into()))));
    }

    #[test]
    fn cancel_asks_first_and_only_yes_is_yes() {
        for (key, expected) in [
            (Key::Char('y'), Some(Order::Ask(Wish::Cancel("a".into())))),
            (Key::Char('n'), None),
            (Key::Char('c'), None),
            (Key::Escape, None),
            (Key::Down, None),
        ] {
            let mut model = model();
            assert_eq!(model.press(Key::Char('c')), None);
            assert_eq!(model.front, Front::Cancel("a".into()));
            assert_eq!(model.press(key), expected, "{key:?}");
            assert_eq!((&model.front, chosen(&model)), (&Front::Nothing, "a"));
        }
        let mut model = model();
        model.press(Key::Char('c'));
        model.see(sample(1, vec![job("b")]));
        assert_eq!(
            model.front,
            Front::Nothing,
            "nobody is asked about what is gone"
        );
    }

    #[test]
    fn who_wants_to_leave_may_from_everywhere() {
        for front in [Front::Nothing, Front::Help, Front::Cancel("a".into())] {
            for key in [Key::Char('q'), Key::Interrupt] {
                let mut model = model();
                model.front = front.clone();
                assert_eq!(model.press(key), Some(Order::Leave));
            }
        }
        let mut model = model();
        model.press(Key::Char('?'));
        assert_eq!(model.front, Front::Help);
        assert_eq!(model.press(Key::Char('c')), None);
        assert_eq!(
            model.front,
            Front::Nothing,
            "help goes with any key, which does nothing else"
        );
    }
}
