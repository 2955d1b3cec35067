//! The picture of a [`Model`]: drawn anew every time, from nothing else.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Clear, Paragraph, Row, Table, TableState};

use super::model::{Front, Model};
use super::rows::{self, DiskRow, JobRow};

/// Columns of a job's bar.
const BAR: usize = 10;

/// From this width on there is room for all columns.
const WIDE: u16 = 110;

/// What the keys do.
const KEYS: &str = "↑↓ choose  p pause/resume  c cancel  ? help  q quit";

const HELP: &str = "\
↑ ↓ Home End   choose a job
p              pause the job, or have it go on
c              cancel it, and its group with it: asks
q, Ctrl-C      leave; the server and its jobs go on

RATE, READ, WRITTEN and LEFT go by the last five seconds.
HELD UP is what 99 writes in a hundred waited at most before
their disk was asked: for a fence, or for old data to be
saved. WORST is since the disk is there. ITSELF is what the
disk then took, on average.";

pub(super) fn draw(model: &Model, frame: &mut Frame<'_>) {
    let jobs = model.jobs();
    let disks = model
        .now()
        .map_or_else(Vec::new, |now| rows::disks(now, model.before()));
    // The disks have what they need, up to half of the screen, and the jobs what is left.
    let body = frame.area().height.saturating_sub(5);
    let of_disks = lines(disks.len(), 1).min(body / 2);
    let of_jobs = lines(jobs.len(), 2).min(body - of_disks);
    let [head, of_jobs, of_disks, _, foot] = Layout::vertical([
        Constraint::Length(4),
        Constraint::Length(of_jobs),
        Constraint::Length(of_disks),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    draw_head(model, frame, head);
    draw_jobs(model, &jobs, frame, of_jobs);
    draw_disks(&disks, frame, of_disks);
    let foot_text = match model.said.as_str() {
        "" => KEYS,
        said => said,
    };
    frame.render_widget(Paragraph::new(foot_text).style(faint()), foot);
    match &model.front {
        Front::Nothing => {}
        Front::Help => draw_front(" cohort top ", HELP, frame),
        Front::Cancel(id) => {
            let text = format!(
                "Cancel {id}, and its group with it?\nEach disk settles by its policy.\n\ny yes   any other key no"
            );
            draw_front(" cancel ", &text, frame);
        }
    }
}

fn draw_head(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let [first, second, third] = rows::head(&model.server, model.now());
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let title = Span::styled("cohort top ", bold);
    let lines = vec![
        Line::from(vec![title, Span::raw(first)]),
        Line::from(second),
        Line::from(third),
    ];
    frame.render_widget(Paragraph::new(lines), area);
}

fn draw_jobs(model: &Model, jobs: &[JobRow], frame: &mut Frame<'_>, area: Rect) {
    if jobs.is_empty() {
        let text = model.now().map_or("", |_| "no jobs");
        return frame.render_widget(Paragraph::new(text), area);
    }
    let wide = area.width >= WIDE;
    let has_groups = jobs.iter().any(|job| !job.group.is_empty());
    // What there are no groups for has no column.
    let group = longest(
        jobs.iter().map(|job| &job.group),
        if wide { 32 } else { 20 },
    );
    let name = longest(jobs.iter().map(|job| &job.id), if wide { 32 } else { 16 }).max(3);
    let mut columns = vec![
        ("JOB", Constraint::Length(name)),
        ("STATUS", Constraint::Length(9)),
        ("", Constraint::Length(BAR as u16 + 6)),
        ("RATE", Constraint::Length(10)),
        ("LEFT", Constraint::Length(11)),
    ];
    if has_groups {
        columns.insert(0, ("GROUP", Constraint::Length(group)));
    }
    if wide {
        columns.push(("DONE", Constraint::Length(22)));
    }
    columns.push(("", Constraint::Fill(1)));
    let rows = jobs.iter().map(|job| {
        let status = Cell::from(job.status.clone()).style(status_style(&job.status));
        let mut cells = vec![
            Cell::from(job.id.clone()),
            status,
            Cell::from(bar(job.share)),
            Cell::from(job.rate.clone()),
            Cell::from(job.left.clone()),
        ];
        if has_groups {
            cells.insert(0, Cell::from(job.group.clone()));
        }
        if wide {
            cells.push(Cell::from(job.done.clone()));
        }
        let limit = Some(&job.limit).filter(|_| wide && job.trouble.is_empty());
        cells.push(Cell::from(limit.unwrap_or(&job.trouble).clone()));
        Row::new(cells)
    });
    let (names, widths): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
    let table = Table::new(rows, widths)
        .header(Row::new(names).style(faint()))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = TableState::new().with_selected(model.place(jobs));
    frame.render_stateful_widget(table, area, &mut state);
}

fn draw_disks(disks: &[DiskRow], frame: &mut Frame<'_>, area: Rect) {
    if disks.is_empty() {
        return;
    }
    let wide = area.width >= WIDE;
    let name = longest(
        disks.iter().map(|disk| &disk.name),
        if wide { 32 } else { 16 },
    )
    .max(4);
    let mut columns = vec![
        ("DISK", Constraint::Length(name)),
        ("READ", Constraint::Length(10)),
        ("WRITTEN", Constraint::Length(10)),
        ("HELD UP", Constraint::Length(8)),
        ("WORST", Constraint::Length(7)),
        ("ITSELF", Constraint::Length(7)),
    ];
    if wide {
        columns.insert(1, ("CLIENTS", Constraint::Length(7)));
        columns.insert(4, ("REQ/S", Constraint::Length(8)));
        columns.insert(5, ("ERRORS", Constraint::Length(6)));
    }
    columns.push(("DIRTY", Constraint::Fill(1)));
    let rows = disks.iter().map(|disk| {
        let mut cells = vec![
            &disk.name,
            &disk.read,
            &disk.written,
            &disk.held_up,
            &disk.held_up_worst,
            &disk.own,
        ];
        if wide {
            cells.insert(1, &disk.clients);
            cells.insert(4, &disk.requests);
            cells.insert(5, &disk.errors);
        }
        cells.push(&disk.dirty);
        Row::new(cells.into_iter().map(|cell| Cell::from(cell.clone())))
    });
    let (names, widths): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
    let table = Table::new(rows, widths).header(Row::new(names).style(faint()));
    frame.render_widget(table, area);
}

/// The lines of a table with so many rows and so many other lines.
fn lines(rows: usize, more: u16) -> u16 {
    u16::try_from(rows).unwrap_or(u16::MAX).saturating_add(more)
}

/// A window in the middle, over everything else.
fn draw_front(title: &str, text: &str, frame: &mut Frame<'_>) {
    let lines: Vec<_> = text.lines().collect();
    let width = lines.iter().map(|line| line.chars().count()).max();
    let width = u16::try_from(width.unwrap_or(0) + 4).unwrap_or(u16::MAX);
    let height = u16::try_from(lines.len() + 2).unwrap_or(u16::MAX);
    let area = frame
        .area()
        .centered(Constraint::Length(width), Constraint::Length(height));
    let block = Block::bordered()
        .title(title)
        .padding(ratatui::widgets::Padding::horizontal(1));
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(text).block(block), area);
}

/// How much is done, as a picture and a number.
fn bar(share: Option<f64>) -> String {
    let Some(share) = share else {
        return String::new();
    };
    let full = (share * BAR as f64) as usize;
    let rest = "░".repeat(BAR - full.min(BAR));
    format!(
        "{}{rest} {:3.0} %",
        "█".repeat(full),
        (share * 100.0).floor()
    )
}

/// The width that these need, up to a bound.
fn longest<'a>(texts: impl Iterator<Item = &'a String>, most: u16) -> u16 {
    let longest = texts.map(|text| text.chars().count()).max().unwrap_or(0);
    u16::try_from(longest).unwrap_or(most).min(most)
}

fn status_style(status: &str) -> Style {
    match status {
        "running" | "ready" => Style::new().fg(Color::Green),
        "paused" | "standby" | "pending" => Style::new().fg(Color::Yellow),
        "aborting" => Style::new().fg(Color::Red),
        _ => Style::new(),
    }
}

fn faint() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::ask::Sample;
    use super::super::model::Key;
    use super::super::rows::tests::{group, job, sample, statistics};
    use super::*;

    /// Two looks, two seconds apart, at a group of three and a lone job.
    fn model() -> Model {
        let mut model = Model::new("/run/cohort.qmp".into());
        model.see(seen(0));
        model.see(seen(2));
        model
    }

    fn seen(seconds: u64) -> Sample {
        let mut jobs = ["vda", "vdb", "vdc", "full0"].map(job);
        jobs[0].done = (2 + seconds) << 20;
        jobs[1].done = seconds << 19;
        jobs[2].status = "paused".into();
        jobs[3].status = "concluded".into();
        (jobs[3].done, jobs[3].error) = (3 << 20, Some("vdx: no space left".into()));
        let groups = vec![
            group("nightly", &["vda", "vdb", "vdc"]),
            group("full0", &["full0"]),
        ];
        let mut sample = sample(seconds, jobs.to_vec());
        sample.statistics = Some(statistics(1000 + 500 * seconds, groups));
        sample
    }

    fn picture(model: &Model, columns: u16, rows: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
        terminal.draw(|frame| draw(model, frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let lines = buffer.content().chunks(columns.into()).map(|line| {
            let text: String = line.iter().map(|cell| cell.symbol()).collect();
            text.trim_end().to_owned()
        });
        lines.collect::<Vec<_>>().join("\n").trim_end().to_owned()
    }

    #[test]
    fn a_small_terminal_shows_what_matters() {
        let expected = "\
cohort top /run/cohort.qmp: 2 NBD clients, 1 QMP, memory 12.0 MiB
4 jobs in 2 groups; decided so far: 1,204 committed, 3 aborted
7 fences so far, the last of 77.6 µs, the worst of 1.20 ms

GROUP          JOB   STATUS                     RATE       LEFT
nightly (open) vda   running   █████░░░░░  50 % 1.00 MiB/s 4.0 s
├              vdb   running   █░░░░░░░░░  12 % 512 KiB/s  14 s
└              vdc   paused    ░░░░░░░░░░   0 % -          -
               full0 concluded ███░░░░░░░  37 % -          -           vdx: no s

DISK READ       WRITTEN    HELD UP  WORST   ITSELF  DIRTY
vda  0 B/s      1.95 MiB/s <4.19 ms 3.10 ms 12.5 µs nightly 3.00 MiB, point 1.00



↑↓ choose  p pause/resume  c cancel  ? help  q quit";
        assert_eq!(picture(&model(), 80, 16), expected);
    }

    #[test]
    fn a_large_terminal_shows_all() {
        let expected = "\
cohort top /run/cohort.qmp: 2 NBD clients, 1 QMP, memory 12.0 MiB
4 jobs in 2 groups; decided so far: 1,204 committed, 3 aborted
7 fences so far, the last of 77.6 µs, the worst of 1.20 ms

GROUP          JOB   STATUS                     RATE       LEFT        DONE
nightly (open) vda   running   █████░░░░░  50 % 1.00 MiB/s 4.0 s       4.00 MiB of 8.00 MiB
├              vdb   running   █░░░░░░░░░  12 % 512 KiB/s  14 s        1.00 MiB of 8.00 MiB
└              vdc   paused    ░░░░░░░░░░   0 % -          -           0 B of 8.00 MiB
               full0 concluded ███░░░░░░░  37 % -          -           3.00 MiB of 8.00 MiB   vdx: no space left

DISK CLIENTS READ       WRITTEN    REQ/S    ERRORS HELD UP  WORST   ITSELF  DIRTY
vda  2       0 B/s      1.95 MiB/s 500      0      <4.19 ms 3.10 ms 12.5 µs nightly 3.00 MiB, point 1.00 MiB



↑↓ choose  p pause/resume  c cancel  ? help  q quit";
        assert_eq!(picture(&model(), 120, 16), expected);
    }

    #[test]
    fn a_question_is_in_front_of_everything() {
        let mut model = model();
        model.press(Key::Char('c'));
        let expected = "\
cohort top /run/cohort.qmp: 2 NBD clients, 1 QMP, memory 12.
4 jobs in 2 groups; decided so far: 1,204 committed, 3 abort
7 fences so far, the last of 77.6 µs, the worst of 1.20 ms

GROUP      ┌ cancel ────────────────────────────┐LEFT
nightly (o │ Cancel vda, and its group with it? │4.0 s
├          │ Each disk settles by its policy.   │14 s
└          │                                    │-
           │ y yes   any other key no           │-
           └────────────────────────────────────┘
DISK READ       WRITTEN    HELD UP  WORST   ITSELF  DIRTY
vda  0 B/s      1.95 MiB/s <4.19 ms 3.10 ms 12.5 µs nightly

↑↓ choose  p pause/resume  c cancel  ? help  q quit";
        assert_eq!(picture(&model, 60, 14), expected);
    }

    #[test]
    fn before_the_first_answer_and_without_jobs_it_says_so() {
        let mut model = Model::new("s".into());
        let first = picture(&model, 40, 8);
        assert!(first.contains("waiting for the first answer"), "{first}");
        model.see(sample(0, Vec::new()));
        let none = picture(&model, 60, 8);
        assert!(
            none.contains("no jobs") && none.contains("tells no figures"),
            "{none}"
        );
    }

    #[test]
    fn no_size_is_too_small_and_the_chosen_job_is_always_shown() {
        let mut model = model();
        model.press(Key::Last);
        model.press(Key::Char('?'));
        for (columns, rows) in [(1, 1), (2, 40), (200, 2), (10, 5), (79, 9)] {
            picture(&model, columns, rows);
        }
        model.press(Key::Escape);
        assert!(picture(&model, 80, 8).contains("full0"));
    }
}
