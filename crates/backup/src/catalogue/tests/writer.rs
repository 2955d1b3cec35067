//! The one writer: runs, images, partials, garbage; and readers beside it.

use std::fs;

use super::samples::{disk, kept, point};
use crate::catalogue::*;

fn names(catalogue: &Catalogue) -> Vec<String> {
    let names = list_files(catalogue.directory()).unwrap();
    names
        .into_iter()
        .map(|name| name.into_string().unwrap())
        .collect()
}

fn one_disk() -> (tempfile::TempDir, Catalogue, DiskName, RunId) {
    let directory = tempfile::tempdir().unwrap();
    let catalogue = Catalogue::open_or_create(directory.path().join("r")).unwrap();
    let disk = disk("vda");
    let run = catalogue
        .begin_run(&[(disk.clone(), "/images/vda.raw".to_owned())])
        .unwrap();
    (directory, catalogue, disk, run)
}

#[test]
fn everything_is_there_after_closing_and_opening() {
    let (_directory, catalogue, disk, run) = one_disk();
    catalogue
        .keep_partial(kept(
            &catalogue.snapshot().unwrap(),
            &disk,
            run,
            Decision::Keep,
        ))
        .unwrap();
    let before = catalogue.snapshot().unwrap();
    let path = catalogue.directory().to_owned();
    drop(catalogue);
    assert_eq!(read(&path).unwrap(), *before);
    let again = Catalogue::open(&path).unwrap();
    assert_eq!(again.snapshot().unwrap(), before);
    assert_eq!(again.begin_run(&[]).unwrap(), RunId(run.0 + 1));
}

#[test]
fn readers_see_every_change_beside_the_writer() {
    let (_directory, catalogue, disk, run) = one_disk();
    for number in run.0..run.0 + 20 {
        assert_eq!(
            read(catalogue.directory()).unwrap(),
            *catalogue.snapshot().unwrap()
        );
        assert_eq!(
            read(catalogue.directory()).unwrap().meta.next_run,
            RunId(number + 1)
        );
        catalogue
            .begin_run(&[(disk.clone(), String::new())])
            .unwrap();
    }
}

#[test]
fn second_writer_is_refused_at_once_and_named() {
    let (_directory, catalogue, ..) = one_disk();
    for second in [
        Catalogue::open(catalogue.directory()),
        Catalogue::open_or_create(catalogue.directory()),
    ] {
        match second {
            Err(OpenError::Busy { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
    }
    let path = catalogue.directory().to_owned();
    drop(catalogue);
    Catalogue::open(path).unwrap();
}

#[test]
fn directories_that_are_not_backups_are_named_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    assert!(matches!(
        read(path.join("none")),
        Err(OpenError::NoDirectory(_))
    ));
    assert!(matches!(
        Catalogue::open(path.join("none")),
        Err(OpenError::NoDirectory(_))
    ));
    assert!(matches!(
        Catalogue::open_or_create(path.join("a/b")),
        Err(OpenError::Io { .. })
    ));
    assert!(matches!(read(path), Err(OpenError::NoCatalogue(_))));
    assert!(matches!(
        Catalogue::open(path),
        Err(OpenError::NoCatalogue(_))
    ));
    fs::write(path.join("file"), b"").unwrap();
    assert!(matches!(
        read(path.join("file")),
        Err(OpenError::NotADirectory(_))
    ));
    assert!(matches!(
        Catalogue::open_or_create(path.join("file")),
        Err(OpenError::NotADirectory(_))
    ));
    assert_eq!(list_files(path).unwrap(), ["file"]);
}

#[test]
fn only_clashing_names_keep_a_catalogue_from_being_made() {
    for (name, content, clash) in [
        ("notes.txt", "x", false),
        ("vda.qcow2", "x", false),
        ("vda.1-0123456789abcdef.qcow2", "x", true),
        ("catalogue.lock", "my own lock", true),
        ("catalogue.lock", "123\n", false),
        ("catalogue.gate", "", false),
    ] {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(name), content).unwrap();
        let result = Catalogue::open_or_create(directory.path());
        assert_eq!(
            matches!(result, Err(OpenError::Clash(_))),
            clash,
            "{name}: {result:?}"
        );
        if clash {
            assert_eq!(list_files(directory.path()).unwrap(), [name]);
            assert_eq!(
                fs::read_to_string(directory.path().join(name)).unwrap(),
                content
            );
        }
    }
}

#[test]
fn half_made_catalogue_is_made_again() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(
        directory.path().join(store::NEW_FILE),
        b"killed in the middle",
    )
    .unwrap();
    let catalogue = Catalogue::open_or_create(directory.path()).unwrap();
    assert_eq!(
        names(&catalogue),
        ["catalogue.gate", "catalogue.lock", "catalogue.redb"]
    );
}

#[test]
fn refused_changes_leave_nothing() {
    let (_directory, catalogue, disk, run) = one_disk();
    let before = catalogue.snapshot().unwrap();
    let mut wrong = kept(&before, &disk, run, Decision::Keep);
    wrong.partial.parent = Some(run);
    let refused = catalogue.keep_partial(wrong);
    assert!(
        matches!(refused, Err(ChangeError::Refused(_))),
        "{refused:?}"
    );
    assert!(matches!(
        catalogue.answer(&disk, Answer::Keep),
        Err(ChangeError::Refused(_))
    ));
    let twice = [(disk.clone(), String::new()), (disk, String::new())];
    assert!(matches!(
        catalogue.begin_run(&twice),
        Err(ChangeError::Refused(_))
    ));
    assert_eq!(catalogue.snapshot().unwrap(), before);
    assert_eq!(read(catalogue.directory()).unwrap(), *before);
}

#[test]
fn undecided_partials_are_answered_either_way() {
    let (_directory, catalogue, disk, run) = one_disk();
    let leave = || {
        let kept = kept(
            &catalogue.snapshot().unwrap(),
            &disk,
            run,
            Decision::Undecided,
        );
        catalogue.keep_partial(kept).unwrap();
    };
    leave();
    catalogue.answer(&disk, Answer::Keep).unwrap();
    assert_eq!(
        catalogue.snapshot().unwrap().partials[&disk].decision,
        Decision::Keep
    );
    leave();
    catalogue.answer(&disk, Answer::Discard).unwrap();
    let contents = catalogue.snapshot().unwrap();
    assert!(contents.partials.is_empty());
    assert_eq!(contents.views[&disk].partial, None);
}

#[test]
fn only_our_own_garbage_is_swept() {
    let (_directory, catalogue, disk, run) = one_disk();
    let contents = catalogue.snapshot().unwrap();
    let kept = kept(&contents, &disk, run, Decision::Keep);
    let file = |name: &str| fs::write(catalogue.directory().join(name), b"x").unwrap();
    let partial = kept.partial.file.to_string();
    catalogue.keep_partial(kept).unwrap();
    let ours =
        ImageName::fresh(disk.clone(), run, contents.meta.directory, FileKind::Image).to_string();
    let in_use = catalogue.new_image(&disk, run).unwrap().to_string();
    let future = ImageName::fresh(
        disk.clone(),
        RunId(99),
        contents.meta.directory,
        FileKind::Image,
    )
    .to_string();
    let other = ImageName::fresh(disk, run, DirectoryId::random(), FileKind::Image).to_string();
    for name in [
        &partial,
        &ours,
        &in_use,
        &future,
        &other,
        "notes",
        "vda.1-xyz.qcow2",
    ] {
        file(name);
    }
    let before = names(&catalogue);
    let swept: Vec<String> = catalogue
        .sweep()
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(swept, std::slice::from_ref(&ours));
    let left: Vec<String> = before.into_iter().filter(|name| *name != ours).collect();
    assert_eq!(names(&catalogue), left);
}

#[test]
fn named_images_cannot_be_removed() {
    let (_directory, catalogue, disk, run) = one_disk();
    let kept = kept(&catalogue.snapshot().unwrap(), &disk, run, Decision::Keep);
    let image = kept.partial.file.clone();
    fs::write(catalogue.path_of(&image), b"x").unwrap();
    catalogue.keep_partial(kept).unwrap();
    assert!(!catalogue.remove_image(&image).unwrap());
    assert!(catalogue.path_of(&image).exists());
    assert_eq!(
        catalogue
            .drop_partial(&disk)
            .unwrap()
            .map(|partial| partial.file),
        Some(image.clone())
    );
    assert!(catalogue.remove_image(&image).unwrap());
    assert!(!catalogue.path_of(&image).exists());
    assert!(
        catalogue.remove_image(&image).unwrap(),
        "a second time is no failure"
    );
}

#[test]
fn files_are_explained() {
    let (_directory, catalogue, disk, run) = one_disk();
    let mut contents = (*catalogue.snapshot().unwrap()).clone();
    let image = || ImageName::fresh(disk.clone(), run, contents.meta.directory, FileKind::Image);
    let (first, unfinished) = (image(), image());
    let stray = ImageName::fresh(disk.clone(), run, DirectoryId::random(), FileKind::Image);
    contents
        .points
        .insert((disk.clone(), run), point(first.clone(), None));
    let digests = contents.digests().next().unwrap().clone();
    let role = |name: &str| contents.role_of(std::ffi::OsStr::new(name));
    assert_eq!(role(&first.to_string()), FileRole::Point(disk.clone(), run));
    assert_eq!(
        role(&digests.to_string()),
        FileRole::PointDigests(disk, run)
    );
    assert_eq!(
        role(&unfinished.to_string()),
        FileRole::Unfinished(unfinished)
    );
    assert_eq!(role(&stray.to_string()), FileRole::Stray(stray));
    assert_eq!(role("catalogue.redb"), FileRole::Catalogue);
    assert_eq!(role("catalogue.redb.bak"), FileRole::Other);
    assert_eq!(contents.missing([]), [&first, &digests]);
}
