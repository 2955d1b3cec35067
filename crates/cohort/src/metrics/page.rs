//! The text format of Prometheus, version 0.0.4: families one after the other, each with its head before its samples.

use std::fmt::Write;

use super::family::{Family, Kind};

/// A page that is being filled, in any order.
pub(super) struct Page {
    samples: Vec<String>,
}

impl Page {
    /// The content type that a page has.
    pub(super) const CONTENT_TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";

    pub(super) fn new() -> Self {
        Self {
            samples: vec![String::new(); Family::ALL.len()],
        }
    }

    /// A whole number, of a counter or a gauge.
    pub(super) fn put(&mut self, family: Family, labels: &[&str], value: u64) {
        self.sample(family, "", labels, None, &value.to_string());
    }

    /// A time, of a gauge.
    pub(super) fn put_seconds(&mut self, family: Family, labels: &[&str], nanos: u64) {
        self.sample(family, "", labels, None, &seconds(nanos));
    }

    /// A histogram of times: for each bound how many were at most that long, both growing, then all and their sum.
    pub(super) fn put_histogram(
        &mut self,
        family: Family,
        labels: &[&str],
        up_to: impl Iterator<Item = (u64, u64)>,
        count: u64,
        sum_ns: u64,
    ) {
        for (bound, number) in up_to {
            let bound = Some(seconds(bound));
            self.sample(family, "_bucket", labels, bound, &number.to_string());
        }
        let all = Some("+Inf".to_owned());
        self.sample(family, "_bucket", labels, all, &count.to_string());
        self.put_summary(family, labels, count, sum_ns);
    }

    /// How many times there were, and their sum.
    pub(super) fn put_summary(&mut self, family: Family, labels: &[&str], count: u64, sum_ns: u64) {
        self.sample(family, "_sum", labels, None, &seconds(sum_ns));
        self.sample(family, "_count", labels, None, &count.to_string());
    }

    /// The page. A family without samples is left out.
    pub(super) fn text(self) -> String {
        let mut text = String::new();
        for (family, samples) in Family::ALL.iter().zip(self.samples) {
            if !samples.is_empty() {
                let (name, kind) = (family.name(), family.kind().word());
                let help = escaped(family.help(), false);
                let _ = write!(
                    text,
                    "# HELP {name} {help}\n# TYPE {name} {kind}\n{samples}"
                );
            }
        }
        text
    }

    fn sample(
        &mut self,
        family: Family,
        suffix: &str,
        labels: &[&str],
        bound: Option<String>,
        value: &str,
    ) {
        debug_assert_eq!(family.labels().len(), labels.len(), "{family:?}");
        debug_assert!(
            suffix.is_empty() || matches!(family.kind(), Kind::Histogram | Kind::Summary),
            "{family:?}"
        );
        let line = &mut self.samples[family as usize];
        let _ = write!(line, "{}{suffix}", family.name());
        let bound = bound.map(|bound| ("le", bound));
        let given = family.labels().iter().zip(labels);
        let given = given.map(|(name, value)| (*name, escaped(value, true)));
        let mut before = '{';
        for (name, value) in given.chain(bound) {
            let _ = write!(line, "{before}{name}=\"{value}\"");
            before = ',';
        }
        if before == ',' {
            line.push('}');
        }
        let _ = writeln!(line, " {value}");
    }
}

/// Nanoseconds as seconds, exactly.
fn seconds(nanos: u64) -> String {
    let text = format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Text as it may stand in a head or, `quoted`, as the value of a label.
fn escaped(text: &str, quoted: bool) -> String {
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    if quoted {
        text.replace('"', "\\\"")
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_stand_under_the_head_of_their_family_and_labels_are_escaped() {
        let mut page = Page::new();
        page.put(Family::OpenFiles, &[], 7);
        page.put(Family::ExportClients, &["a\"b\\c\nd"], 1);
        page.put_seconds(Family::FenceLast, &[], 1_500);
        page.put(Family::ExportClients, &["z"], 2);
        page.put_summary(Family::WriteDevice, &["a"], 3, 2_000_000_000);
        let expected = "\
# HELP cohort_export_clients NBD clients inside the export.
# TYPE cohort_export_clients gauge
cohort_export_clients{export=\"a\\\"b\\\\c\\nd\"} 1
cohort_export_clients{export=\"z\"} 2
# HELP cohort_disk_write_device_seconds How long the disk itself took for writes.
# TYPE cohort_disk_write_device_seconds summary
cohort_disk_write_device_seconds_sum{disk=\"a\"} 2
cohort_disk_write_device_seconds_count{disk=\"a\"} 3
# HELP cohort_fence_last_seconds How long gates were closed the last time.
# TYPE cohort_fence_last_seconds gauge
cohort_fence_last_seconds 0.0000015
# HELP process_open_fds Files and sockets that the process has open.
# TYPE process_open_fds gauge
process_open_fds 7
";
        assert_eq!(page.text(), expected);
    }

    #[test]
    fn a_histogram_ends_with_all_of_them() {
        let mut page = Page::new();
        let up_to = [(1_023, 2), (4_095, 5)].into_iter();
        page.put_histogram(Family::WriteDelay, &["a"], up_to, 6, 10_000);
        let text = page.text();
        let samples: Vec<_> = text.lines().skip(2).collect();
        assert_eq!(
            samples,
            [
                "cohort_disk_write_delay_seconds_bucket{disk=\"a\",le=\"0.000001023\"} 2",
                "cohort_disk_write_delay_seconds_bucket{disk=\"a\",le=\"0.000004095\"} 5",
                "cohort_disk_write_delay_seconds_bucket{disk=\"a\",le=\"+Inf\"} 6",
                "cohort_disk_write_delay_seconds_sum{disk=\"a\"} 0.00001",
                "cohort_disk_write_delay_seconds_count{disk=\"a\"} 6",
            ]
        );
    }

    #[test]
    fn seconds_are_exact() {
        let told = [0, 1, 999_999_999, 1_000_000_000, 90_000_000_000, u64::MAX].map(seconds);
        assert_eq!(
            told,
            [
                "0",
                "0.000000001",
                "0.999999999",
                "1",
                "90",
                "18446744073.709551615"
            ]
        );
    }

    #[test]
    fn names_follow_the_conventions() {
        for (at, family) in Family::ALL.iter().enumerate() {
            let (name, kind) = (family.name(), family.kind());
            assert_eq!(*family as usize, at);
            assert!(
                name.starts_with("cohort_") || name.starts_with("process_"),
                "{name}"
            );
            assert_eq!(name.ends_with("_total"), kind == Kind::Counter, "{name}");
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{name}"
            );
            let is_time = matches!(kind, Kind::Histogram | Kind::Summary);
            assert!(!is_time || name.ends_with("_seconds"), "{name}");
            assert!(family.help().ends_with('.'), "{name}");
            let same = Family::ALL.iter().filter(|other| other.name() == name);
            assert_eq!(same.count(), 1, "{name}");
        }
    }
}
