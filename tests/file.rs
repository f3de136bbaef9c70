//! docs/file.md, promise by promise, on real files.

mod report;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use leasehold::report::Board;
use leasehold::report::file::{FileReport, ReadError, Verdict, Yes, read};
use leasehold::time::Moment;
use report::*;

const NOW: Moment = Moment::from_nanos(1_000_018_000_000);

fn open(dir: &Path) -> (FileReport, Vec<Arc<Board>>) {
    let boards = vec![board("web"), board("jobs")];
    (FileReport::open(dir, boards.clone()).expect("a directory to write to"), boards)
}

#[test]
fn every_lease_has_its_files_and_the_first_is_also_called_status() {
    let dir = tempfile::tempdir().unwrap();
    let (report, boards) = open(&dir.path().join("made/on/the/way"));
    let dir = dir.path().join("made/on/the/way");
    report.reset(NOW).unwrap();
    publish(&boards[0], leading(NOW, 77, 1));
    report.refresh(0, NOW).unwrap();
    report.refresh(1, NOW).unwrap();
    let mut names: Vec<_> =
        fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["jobs.env", "jobs.json", "status.env", "status.json", "web.env", "web.json"]);
    for name in &names {
        let mode = fs::metadata(dir.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o644, "{name}");
    }
    for ending in ["json", "env"] {
        let text = |stem: &str| fs::read_to_string(dir.join(format!("{stem}.{ending}"))).unwrap();
        assert_eq!(text("status"), text("web"));
        assert_ne!(text("status"), text("jobs"));
    }
}

#[test]
fn a_file_never_claims_more_than_was_promised() {
    let dir = tempfile::tempdir().unwrap();
    let (report, boards) = open(dir.path());
    publish(&boards[0], leading(NOW, 77, 1));
    report.refresh(0, NOW).unwrap();
    assert_eq!(boards[0].promised_until(), NOW + TTL);
    let env = fs::read_to_string(dir.path().join("status.env")).unwrap();
    assert_eq!(
        env,
        "LEASEHOLD_LEADER=1\nLEASEHOLD_VALID_FROM=100001\nLEASEHOLD_VALID_UNTIL=100101\nLEASEHOLD_TOKEN=77\n"
    );
    publish(&boards[0], held_by("other_x", NOW, 2));
    report.refresh(0, NOW).unwrap();
    let env = fs::read_to_string(dir.path().join("web.env")).unwrap();
    assert_eq!(env, "LEASEHOLD_LEADER=0\nLEASEHOLD_VALID_FROM=0\nLEASEHOLD_VALID_UNTIL=0\nLEASEHOLD_TOKEN=0\n");
}

#[test]
fn a_reset_says_not_leader_and_promises_nothing_whatever_is_published() {
    let dir = tempfile::tempdir().unwrap();
    let (report, boards) = open(dir.path());
    publish(&boards[0], leading(NOW, 77, 1));
    report.reset(NOW).unwrap();
    assert_eq!(boards[0].promised_until(), Moment::BOOT);
    assert!(matches!(read(&dir.path().join("status.json"), || NOW, BOOT_ID), Ok(Verdict::NotLeader { .. })));
}

#[test]
fn a_reader_leads_only_between_its_two_moments_and_under_its_own_boot() {
    let dir = tempfile::tempdir().unwrap();
    let (report, boards) = open(dir.path());
    publish(&boards[0], leading(NOW, 77, 1));
    report.refresh(0, NOW).unwrap();
    let path = dir.path().join("status.json");
    let at = |now: Moment| read(&path, || now, BOOT_ID);
    let leader = Verdict::Leader(Yes {
        lease: "web".into(),
        token: 77,
        until: Moment::from_nanos(1_001_010_000_000),
        stop_by: Moment::from_nanos(1_014_980_000_000),
    });
    assert_eq!(at(NOW).unwrap(), leader);
    assert_eq!(at(Moment::from_nanos(1_001_009_999_999)).unwrap(), leader);
    for late in [NOW + TTL, Moment::from_nanos(1_001_010_000_000), Moment::NEVER] {
        assert_eq!(at(late).unwrap(), Verdict::NotLeader { reason: "expired".into() }, "{late}");
    }
    for early in [Moment::BOOT, NOW - Duration::from_millis(10)] {
        assert!(matches!(at(early), Err(ReadError::FromTheFuture { .. })), "{early}");
    }
    let other = "99999999-2222-3333-4444-555555555555";
    assert!(matches!(read(&path, || NOW, other), Err(ReadError::OtherBoot { .. })));
    assert!(matches!(read(&dir.path().join("none.json"), || NOW, BOOT_ID), Err(ReadError::Unreadable { .. })));
    for (text, what) in [("", "empty"), ("{\"leader\":tr", "torn"), ("[]", "a list"), ("\u{0}", "a nul")] {
        fs::write(&path, text).unwrap();
        assert!(matches!(at(NOW), Err(ReadError::Malformed { .. })), "{what}");
    }
    let bare = format!(r#"{{"leader":true,"boot_id":"{BOOT_ID}","reason":"leading","fencing_token":1}}"#);
    fs::write(&path, bare).unwrap();
    assert!(matches!(at(NOW), Err(ReadError::Incomplete { .. })));
}

#[test]
fn a_shell_that_executes_the_env_file_runs_nothing_of_a_holders_name() {
    let dir = tempfile::tempdir().unwrap();
    let (report, boards) = open(dir.path());
    let touch = format!("$(touch {0}/x);`touch {0}/x`\n\"; touch {0}/x\n", dir.path().display());
    for status in [held_by(&touch, NOW, 1), {
        let mut ours = leading(NOW, 7, 2);
        ours.holder = Some(touch.clone());
        ours
    }] {
        publish(&boards[0], status);
        report.refresh(0, NOW).unwrap();
        let env = dir.path().join("status.env");
        for line in fs::read_to_string(&env).unwrap().lines() {
            let (key, value) = line.split_once('=').unwrap();
            assert!(key.starts_with("LEASEHOLD_") && value.bytes().all(|byte| byte.is_ascii_digit()), "{line}");
        }
        let script = format!(". {}; echo $LEASEHOLD_TOKEN", env.display());
        let shell = Command::new("sh").args(["-eu", "-c", &script]).output().unwrap();
        assert!(shell.status.success() && shell.stderr.is_empty(), "{shell:?}");
    }
    assert!(!dir.path().join("x").exists());
    let json: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(dir.path().join("status.json")).unwrap()).unwrap();
    assert!(json["holder"].as_str().unwrap().starts_with("$(touch"), "JSON quotes it");
}

#[test]
fn the_shell_loop_of_the_documentation_decides_as_the_library_does() {
    // docs/file.md shows these lines. The uptime comes from a file so that the test can move it.
    let script = r#". "$1/status.env"; read -r u _ <"$2"; u=${u%.*}${u#*.}
        [ "$LEASEHOLD_LEADER" = 1 ] && [ "$LEASEHOLD_VALID_FROM" -le "$u" ] && [ "$u" -lt "$LEASEHOLD_VALID_UNTIL" ]"#;
    let dir = tempfile::tempdir().unwrap();
    let (report, boards) = open(dir.path());
    publish(&boards[0], leading(NOW, 77, 1));
    report.refresh(0, NOW).unwrap();
    let uptime = dir.path().join("uptime");
    for (text, leads) in [("1000.00", false), ("1000.01", true), ("1001.00", true), ("1001.01", false), ("3.05", false)]
    {
        fs::write(&uptime, format!("{text} 1.00\n")).unwrap();
        let shell = Command::new("sh").args(["-c", script, "sh"]).arg(dir.path()).arg(&uptime).status().unwrap();
        assert_eq!(shell.success(), leads, "{text}");
    }
}

#[test]
fn a_reader_never_sees_half_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let (report, boards) = open(dir.path());
    report.reset(NOW).unwrap();
    let path = dir.path().join("status.json");
    let done = Arc::new(AtomicBool::new(false));
    let reader = {
        let (path, done) = (path.clone(), Arc::clone(&done));
        std::thread::spawn(move || {
            let mut seen = [0, 0];
            while !done.load(Ordering::Relaxed) {
                match read(&path, || NOW, BOOT_ID).expect("whole, and always there") {
                    Verdict::Leader(_) => seen[0] += 1,
                    Verdict::NotLeader { .. } => seen[1] += 1,
                }
            }
            seen
        })
    };
    for version in 1..500 {
        let long = "y".repeat(version as usize % 700);
        let status = if version % 2 == 0 { leading(NOW, version, version) } else { held_by(&long, NOW, version) };
        publish(&boards[0], status);
        report.refresh(0, NOW).unwrap();
    }
    done.store(true, Ordering::Relaxed);
    let seen = reader.join().expect("no torn read");
    assert!(seen[0] > 0 && seen[1] > 0, "the reader saw both: {seen:?}");
}

#[test]
fn leftovers_of_a_killed_sidecar_are_removed_and_other_files_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let (report, _) = open(dir.path());
    let target = dir.path().join("precious");
    fs::write(&target, "precious").unwrap();
    // Somebody's link where the sidecar writes aside is not written through.
    std::os::unix::fs::symlink(&target, dir.path().join(".leasehold-status.json")).unwrap();
    report.refresh(0, NOW).unwrap();
    assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
    fs::write(dir.path().join(".leasehold-web.json"), "half").unwrap();
    open(dir.path());
    let hidden = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with('.');
    assert_eq!(fs::read_dir(dir.path()).unwrap().flatten().filter(hidden).count(), 0);
    assert!(target.exists());
}

#[test]
fn a_directory_that_cannot_be_written_is_an_error_that_says_so() {
    // Root may write anywhere but here.
    let error = FileReport::open(Path::new("/proc/self"), vec![board("web")]).err().expect("nobody writes there");
    assert!(error.to_string().contains("/proc/self") && error.to_string().contains("emptyDir"), "{error}");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(FileReport::open(&file, vec![board("web")]).is_err());
    if !rustix::process::getuid().is_root() {
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o555)).unwrap();
        assert!(FileReport::open(dir.path(), vec![board("web")]).is_err());
    }
}

/// Run again as a child whose files may not grow, which is to it what a full disk is.
#[test]
fn a_full_disk_leaves_the_old_file_and_no_half_of_a_new_one() {
    const DIR: &str = "LEASEHOLD_TEST_FULL";
    if let Ok(dir) = std::env::var(DIR) {
        let boards = vec![board("web")];
        let report = FileReport::open(Path::new(&dir), boards.clone()).expect("an empty file fits");
        publish(&boards[0], held_by("other_x", NOW, 2));
        let error = report.refresh(0, NOW).expect_err("nothing more fits");
        println!("refused: {error}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (report, boards) = open(dir.path());
    publish(&boards[0], leading(NOW, 77, 1));
    report.refresh(0, NOW).unwrap();
    let before = fs::read_to_string(dir.path().join("status.json")).unwrap();

    let child = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "a_full_disk_leaves_the_old_file_and_no_half_of_a_new_one", "--nocapture"])
        .env(DIR, dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout).into_owned();
    assert!(child.status.success() && said.contains("refused: "), "{child:?}");

    let path = dir.path().join("status.json");
    assert_eq!(fs::read_to_string(&path).unwrap(), before);
    assert!(matches!(read(&path, || NOW, BOOT_ID), Ok(Verdict::Leader(_))));
    // What could not be withdrawn ends by itself.
    assert!(matches!(read(&path, || NOW + TTL, BOOT_ID), Ok(Verdict::NotLeader { .. })));
    let names = fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.file_name());
    assert!(names.into_iter().all(|name| !name.to_string_lossy().starts_with('.')));
}
