//! Bitmaps inside qcow2 images, with QEMU's tools as judges.

use super::*;

#[test]
fn what_qemu_says_of_a_bitmap_we_export_byte_for_byte() {
    let Some(lab) = lab_with_bitmaps() else {
        return;
    };
    if !have(&["nbdinfo"]) {
        return;
    }
    for name in ["b", "fine"] {
        let before = fs::read(lab.path("a.qcow2")).expect("the image");
        let ours = export(&lab, name, &["--json"]);
        assert_eq!(json(&ours), json(&nbdinfo(&lab, name)));
        assert!(before == fs::read(lab.path("a.qcow2")).expect("the image"));
    }
    let last = SIZE / 65536 * 65536;
    let list = format!(
        "0 65536\n1048576 131072\n3014656 131072\n{last} {}\n",
        SIZE - last
    );
    assert_eq!(export(&lab, "b", &[]), list);
    assert_eq!(export(&lab, "fine", &[]), "0 4096\n3072000 12288\n");
}

#[test]
fn what_we_import_qemu_reads_and_merges() {
    let Some(lab) = lab_with_bitmaps() else {
        return;
    };
    let list = format!("4095 2\n5M 1K\n# a comment\n\n{} 1\n", SIZE - 1);
    import(
        &lab,
        &["a.qcow2", "ours", "--granularity", "4096"],
        list.as_bytes(),
    )
    .exits(0);
    check(&lab);
    let end = SIZE / 4096 * 4096;
    let exact = format!("0 8192\n5242880 4096\n{end} {}\n", SIZE - end);
    assert_eq!(export(&lab, "ours", &[]), exact);
    lab.run("qemu-img bitmap --add -g 4096 --merge ours a.qcow2 theirs");
    assert_eq!(export(&lab, "theirs", &[]), exact);
    if have(&["nbdinfo"]) {
        assert_eq!(
            json(&nbdinfo(&lab, "ours")),
            json(&export(&lab, "ours", &["--json"]))
        );
        // The map of one image, as nbdinfo prints it, makes the same bitmap in it again.
        let map = nbdinfo(&lab, "fine");
        import(
            &lab,
            &["a.qcow2", "again", "--granularity", "4K"],
            map.as_bytes(),
        )
        .exits(0);
        assert_eq!(export(&lab, "again", &[]), export(&lab, "fine", &[]));
    }
    // QEMU goes on marking it.
    write(&lab, &["write 2M 512"]);
    assert!(export(&lab, "ours", &[]).contains("\n2097152 4096\n"));
    check(&lab);
}

#[test]
fn bitmaps_of_several_granularities_merge_as_qemu_merges_them() {
    let Some(lab) = lab_with_bitmaps() else {
        return;
    };
    import(
        &lab,
        &["a.qcow2", "third", "--granularity", "512"],
        b"4M 512\n4200000 9000\n",
    )
    .exits(0);
    for (name, granularity) in [("ours", "16384"), ("theirs", "16384")] {
        lab.run(&format!(
            "qemu-img bitmap --add -g {granularity} a.qcow2 {name}"
        ));
    }
    let ran = lab.cohort([
        "bitmap", "merge", "a.qcow2", "ours", "b", "fine", "third", "--json",
    ]);
    let ran = ran.exits(0).json();
    for source in ["b", "fine", "third"] {
        lab.run(&format!("qemu-img bitmap --merge {source} a.qcow2 theirs"));
    }
    let merged = export(&lab, "ours", &[]);
    assert_eq!(merged, export(&lab, "theirs", &[]));
    let bytes: u64 = merged
        .lines()
        .map(|line| {
            line.split(' ')
                .nth(1)
                .expect("a length")
                .parse::<u64>()
                .expect("a number")
        })
        .sum();
    assert_eq!(ran["dirty_bytes"], bytes);
    // Coarser into finer, from another file that is the same image under another name.
    fs::copy(lab.path("a.qcow2"), lab.path("copy.qcow2")).expect("a copy");
    let into = [
        "bitmap",
        "merge",
        "a.qcow2",
        "fine",
        "b",
        "--from",
        "copy.qcow2",
    ];
    lab.cohort(into).exits(0);
    lab.run("qemu-img bitmap --merge b copy.qcow2 fine");
    let other = lab
        .cohort(["bitmap", "export", "copy.qcow2", "fine"])
        .exits(0);
    assert_eq!(export(&lab, "fine", &[]), other.stdout);
    check(&lab);
}

#[test]
fn a_bitmap_is_replaced_only_on_request() {
    let Some(lab) = lab_with_bitmaps() else {
        return;
    };
    let before = export(&lab, "fine", &[]);
    let ran = import(&lab, &["a.qcow2", "fine"], b"0 1\n").exits(42);
    ran.says(&["has a bitmap \"fine\" already", "--replace"]);
    assert_eq!(export(&lab, "fine", &[]), before);
    import(&lab, &["a.qcow2", "fine", "--replace"], b"1M 1\n").exits(0);
    assert_eq!(
        export(&lab, "fine", &[]),
        "1048576 4096\n",
        "its granularity stays"
    );
    import(
        &lab,
        &["a.qcow2", "new", "--disabled", "--granularity", "2M"],
        b"",
    )
    .exits(0);
    let new = list(&lab, "a.qcow2").pop().expect("a bitmap");
    assert_eq!(
        (&new["state"], &new["dirty_bytes"]),
        (&"disabled".into(), &0.into())
    );
    assert_eq!(new["granularity_bytes"], 2 << 20);
    check(&lab);
}

#[test]
fn beside_a_writer_of_qemus_bitmaps_are_in_use_and_after_its_kill_inconsistent() {
    let Some(lab) = lab_with_bitmaps() else {
        return;
    };
    let daemon = Daemon::start(&lab, "off", None);
    let before = fs::read(lab.path("a.qcow2")).expect("the image");
    assert!(
        list(&lab, "a.qcow2")
            .iter()
            .all(|bitmap| bitmap["state"] == "in-use")
    );
    lab.cohort(["bitmap", "show", "a.qcow2", "b"])
        .exits(23)
        .says(&["a.qcow2: bitmap \"b\" is in use"]);
    import(&lab, &["a.qcow2", "n"], b"0 1\n")
        .exits(23)
        .says(&["a.qcow2: locked"]);
    lab.cohort(["bitmap", "merge", "a.qcow2", "b", "fine"])
        .exits(23)
        .says(&["a.qcow2: locked"]);
    assert!(
        before == fs::read(lab.path("a.qcow2")).expect("the image"),
        "nothing was changed"
    );
    daemon.kill();
    for bitmap in list(&lab, "a.qcow2") {
        assert_eq!(
            (&bitmap["state"], &bitmap["dirty_bytes"]),
            (&"inconsistent".into(), &Value::Null)
        );
    }
    for command in ["show", "export"] {
        lab.cohort(["bitmap", command, "a.qcow2", "b"])
            .exits(52)
            .says(&["\"b\" is inconsistent"]);
    }
    lab.cohort(["bitmap", "merge", "a.qcow2", "b", "fine"])
        .exits(52);
    import(&lab, &["a.qcow2", "b", "--replace"], b"0 1\n")
        .exits(52)
        .says(&["remove it"]);
}

/// As QEMU looks for a bitmap: down the chain, and the uppermost of a name counts.
#[test]
fn bitmaps_of_images_beneath_are_found_and_told_apart() {
    let Some(lab) = lab_with_bitmaps() else {
        return;
    };
    lab.run("qemu-img create -q -f qcow2 -b a.qcow2 -F qcow2 top.qcow2");
    let below = export(&lab, "b", &[]);
    let seen = |name: &str| lab.cohort(["bitmap", "export", "top.qcow2", name]).exits(0);
    assert_eq!(seen("b").stdout, below);
    lab.run("qemu-img bitmap --add top.qcow2 fine");
    assert_eq!(seen("fine").stdout, "", "the uppermost one, which is new");
    let rows = list(&lab, "top.qcow2");
    let told: Vec<_> = rows
        .iter()
        .map(|row| {
            (
                row["name"].as_str(),
                row["image"]
                    .as_str()
                    .map(|path| path.ends_with("top.qcow2")),
            )
        })
        .collect();
    let expected = [("fine", true), ("b", false), ("fine", false)];
    assert_eq!(told, expected.map(|(name, top)| (Some(name), Some(top))));
    let shown = lab.cohort(["bitmap", "list", "top.qcow2"]).exits(0).stdout;
    assert!(shown.contains("QEMU, in "), "{shown}");
    lab.cohort(["bitmap", "show", "top.qcow2"])
        .exits(2)
        .says(&["\"b\" (in ", "say which"]);
    // What is beneath is read, and never changed from here.
    import(&lab, &["top.qcow2", "b", "--replace"], b"").exits(0);
    assert_eq!(export(&lab, "b", &[]), below);
    lab.cohort(["bitmap", "merge", "top.qcow2", "fine", "b"])
        .exits(0);
    check(&lab);
}
