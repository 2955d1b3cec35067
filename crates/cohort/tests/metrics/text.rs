//! A strict reader of the text format 0.0.4: what a scraper may refuse is refused here.
#![allow(
    dead_code,
    unreachable_pub,
    missing_debug_implementations,
    reason = "it is a part of a test program"
)]

use std::collections::{BTreeMap, BTreeSet};

/// A page that was read.
#[derive(Debug, Default)]
pub struct Page {
    /// The kind of every family, by name.
    pub families: BTreeMap<String, String>,
    samples: BTreeMap<(String, Labels), f64>,
}

/// Labels in the order of their names.
type Labels = Vec<(String, String)>;

impl Page {
    /// Reads a page.
    #[track_caller]
    pub fn read(text: &str) -> Page {
        assert!(text.ends_with('\n'), "the last line ends");
        let mut page = Page::default();
        let (mut helped, mut now) = (BTreeSet::new(), None);
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("a name and a text");
                is_name(name, true);
                unescaped(help, false);
                assert!(helped.insert(name.to_owned()), "{name} has a head already");
                now = None;
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a name and a kind");
                assert!(helped.contains(name), "the text stands before the kind");
                let kinds = ["counter", "gauge", "histogram", "summary"];
                assert!(kinds.contains(&kind), "{kind}");
                let before = page.families.insert(name.to_owned(), kind.to_owned());
                assert_eq!(before, None, "{name} has a kind already");
                now = Some((name.to_owned(), kind.to_owned()));
            } else {
                let (name, kind) = now.as_ref().expect("a head before samples");
                page.take(line, name, kind);
            }
        }
        assert_eq!(helped.len(), page.families.len(), "a head without a kind");
        for family in page.families.keys() {
            let has_samples = page
                .samples
                .keys()
                .any(|(name, _)| name.starts_with(family));
            assert!(has_samples, "{family} has no samples");
        }
        page.check_histograms();
        page
    }

    /// The value of the sample with these labels, which there is.
    #[track_caller]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let found = self.find(name, labels);
        found.unwrap_or_else(|| panic!("no {name} with {labels:?}"))
    }

    /// The same, if there is one.
    pub fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels = labels
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()));
        let mut labels: Labels = labels.collect();
        labels.sort();
        self.samples.get(&(name.to_owned(), labels)).copied()
    }

    fn take(&mut self, line: &str, family: &str, kind: &str) {
        let (key, value) = line.rsplit_once(' ').expect("a sample and its value");
        let value = match value {
            "+Inf" => f64::INFINITY,
            number => number.parse().expect("a number"),
        };
        let (name, labels) = match key.split_once('{') {
            Some((name, rest)) => (name, labels(rest)),
            None => (key, Vec::new()),
        };
        is_name(name, true);
        let suffix = name.strip_prefix(family).expect("of the family above it");
        let may_be: &[&str] = match kind {
            "histogram" => &["_bucket", "_sum", "_count"],
            "summary" => &["_sum", "_count"],
            _ => &[""],
        };
        assert!(may_be.contains(&suffix), "{name} of a {kind}");
        assert!(value >= 0.0 || kind == "gauge", "{line}");
        let before = self.samples.insert((name.to_owned(), labels), value);
        assert_eq!(before, None, "twice: {key}");
    }

    /// Buckets grow, and the last holds all.
    fn check_histograms(&self) {
        let histograms = self
            .families
            .iter()
            .filter(|(_, kind)| *kind == "histogram");
        for (family, _) in histograms {
            let mut series: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
            for ((name, labels), count) in &self.samples {
                if *name == format!("{family}_bucket") {
                    let (bound, rest): (Vec<_>, Vec<_>) =
                        labels.iter().cloned().partition(|(name, _)| name == "le");
                    let bound = match bound[0].1.as_str() {
                        "+Inf" => f64::INFINITY,
                        number => number.parse().expect("a bound"),
                    };
                    series.entry(rest).or_default().push((bound, *count));
                }
            }
            assert!(!series.is_empty(), "{family} has no buckets");
            for (labels, mut buckets) in series {
                buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
                assert!(buckets.is_sorted_by(|one, other| one.0 < other.0 && one.1 <= other.1));
                let last = buckets.last().expect("a bucket");
                let key = (format!("{family}_count"), labels);
                assert_eq!((last.0, last.1), (f64::INFINITY, self.samples[&key]));
            }
        }
    }
}

/// What stands between the brackets, the last one included.
fn labels(text: &str) -> Labels {
    let mut labels = Vec::new();
    let mut rest = text;
    loop {
        let (name, after) = rest.split_once("=\"").expect("a label");
        is_name(name, false);
        let end = closing_quote(after);
        labels.push((name.to_owned(), unescaped(&after[..end], true)));
        rest = &after[end + 1..];
        match rest {
            "}" => break,
            more => rest = more.strip_prefix(',').expect("another label"),
        }
    }
    labels.sort();
    let unique: BTreeSet<_> = labels.iter().map(|(name, _)| name).collect();
    assert_eq!(unique.len(), labels.len(), "a label twice: {text}");
    labels
}

fn closing_quote(text: &str) -> usize {
    let mut escaped = false;
    for (at, letter) in text.char_indices() {
        match letter {
            '"' if !escaped => return at,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    panic!("a quote without end: {text}");
}

fn unescaped(text: &str, quoted: bool) -> String {
    let mut plain = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            plain.push(letter);
            continue;
        }
        plain.push(match letters.next() {
            Some('\\') => '\\',
            Some('n') => '\n',
            Some('"') if quoted => '"',
            other => panic!("\\{other:?} in {text}"),
        });
    }
    plain
}

fn is_name(name: &str, may_have_colons: bool) {
    let is_letter = |letter: char| {
        letter.is_ascii_alphanumeric() || letter == '_' || (letter == ':' && may_have_colons)
    };
    let begins_well = !name.starts_with(|letter: char| letter.is_ascii_digit());
    assert!(
        !name.is_empty() && begins_well && name.chars().all(is_letter),
        "{name}"
    );
}
