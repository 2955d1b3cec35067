//! A full backup of a 1 GiB image, beside `qemu-img convert` and `cp --sparse=always`; all with the target synced.
//!
//! The source is resident in the page cache and lies on the same file system as the targets. Each round writes a new target,
//! so that nobody overwrites pages that are already there, and removes it untimed. `COHORT_BENCH_MIB` sets another size.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use benches::{Contender, machine, rounds, timed};
use cohort_backup::{Backup, DiskSpec};

const ROUNDS: usize = 5;

fn main() {
    let mib = std::env::var("COHORT_BENCH_MIB")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1024);
    println!("{}", machine());
    println!("full copy of {mib} MiB, median of {ROUNDS} rounds, target synced\n");
    println!(
        "{:>10}  {:>16}  {:>16}  {:>16}  {:>14}",
        "allocated", "cohort", "qemu-img convert", "cp --sparse", "ours/fastest"
    );
    for (share, allocated) in [(4, "all"), (1, "a quarter")] {
        let lab = tempfile::tempdir_in(std::env::current_dir().expect("a directory"))
            .expect("a directory");
        make_image(&lab.path().join("disk.img"), mib, share);
        measure(lab.path(), mib, allocated);
    }
}

/// An image of which `share` quarters of every 16 MiB hold data that repeats nowhere.
fn make_image(path: &Path, mib: u64, share: u64) {
    use std::os::unix::fs::FileExt;
    let file = File::create(path).expect("an image");
    file.set_len(mib << 20).expect("its size");
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for number in (0..mib).filter(|number| number % 16 < 4 * share) {
        let words = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        });
        let block: Vec<u8> = words.take(1 << 17).flatten().collect();
        file.write_all_at(&block, number << 20).expect("its data");
    }
    file.sync_all().expect("it is on disk");
}

fn measure(lab: &Path, mib: u64, allocated: &str) {
    let (source, target) = (lab.join("disk.img"), lab.join("target"));
    let peer = |program: &str, args: &[&str]| {
        let mut command = Command::new(program);
        command.args(args).arg(&source).arg(&target);
        let time = timed(|| {
            assert!(command.status().expect("the peer is installed").success());
            File::open(&target)
                .and_then(|file| file.sync_all())
                .expect("synced");
        });
        fs::remove_file(&target).expect("removed");
        time
    };
    let mut contenders = [
        Contender::new("cohort", || {
            let time = timed(|| {
                let run = Backup::to(&target)
                    .disk(DiskSpec::file(&source))
                    .start()
                    .expect("a run");
                assert!(run.wait().succeeded());
            });
            fs::remove_dir_all(&target).expect("removed");
            time
        }),
        Contender::new("qemu-img convert", || {
            peer("qemu-img", &["convert", "-O", "qcow2"])
        }),
        Contender::new("cp --sparse=always", || peer("cp", &["--sparse=always"])),
    ];
    rounds(ROUNDS, &mut contenders);
    let medians = contenders.each_ref().map(Contender::median);
    let row = |time: Duration| {
        format!(
            "{:.2} s {:>5.0} MiB/s",
            time.as_secs_f64(),
            mib as f64 / time.as_secs_f64()
        )
    };
    let [ours, convert, cp] = medians.map(row);
    let ratio = medians[0].as_secs_f64() / medians[1].min(medians[2]).as_secs_f64();
    println!("{allocated:>10}  {ours:>16}  {convert:>16}  {cp:>16}  {ratio:>13.2}×");
}
