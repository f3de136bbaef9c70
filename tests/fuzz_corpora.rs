//! Every input of fuzz/corpus, through the very functions that `make fuzz` calls, on stable Rust; and what only a real
//! shell can say of a report file.

#[path = "../fuzz/src/lib.rs"]
mod fuzz;

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;

fn corpus(target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = files.map(|file| file.expect("a folder is read").path()).collect();
    files.sort();
    files
}

#[test]
fn every_property_holds_for_every_input_of_the_corpora() {
    let mut broken = Vec::new();
    for (name, _) in fuzz::TARGETS {
        let files = corpus(name);
        assert!(files.len() >= 3, "{name} has a corpus");
        for file in files {
            let data = fs::read(&file).expect("a file of the corpus is read");
            // Each one is tried: the more is known, the better.
            if catch_unwind(|| fuzz::run(name, &data)).is_err() {
                broken.push(file);
            }
        }
    }
    assert!(broken.is_empty(), "these inputs break their target's properties: {broken:#?}");
}

#[test]
fn there_is_a_corpus_and_a_program_for_each_target_and_no_other() {
    let names: BTreeSet<String> = fuzz::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let within = |folder: &str| {
        let entries = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).expect("it is there");
        let names = entries.map(|entry| entry.expect("a folder is read").path());
        names.map(|path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned()).collect::<BTreeSet<_>>()
    };
    assert_eq!(within("fuzz/corpus"), names);
    assert_eq!(within("fuzz/fuzz_targets"), names);
}

/// /bin/sh sources each file, one after the other, in a folder of its own and without a PATH.
#[test]
fn a_shell_that_sources_a_report_file_sets_four_numbers_and_does_nothing_else() {
    let mut inputs: Vec<Vec<u8>> =
        corpus("report_env").iter().map(|file| fs::read(file).expect("a file of the corpus is read")).collect();
    let mut random = Random(0x1ea5_e401d);
    inputs.extend((0..500).map(|_| random.input()));

    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut script = String::from("set -eu\n");
    let mut expected = String::new();
    for (index, input) in inputs.iter().enumerate() {
        let (text, told) = fuzz::report_env::written(input);
        fs::write(dir.path().join(format!("{index}.env")), text).expect("a temporary folder can be written");
        let values = fuzz::report_env::KEYS.map(|key| format!("${{{key}}}")).join(" ");
        script += &format!(". ./{index}.env; echo \"{values}\"\n");
        expected += &(told.map(|value| value.to_string()).join(" ") + "\n");
    }
    // What a file made a shell do would be seen: a variable more, a line more, a file more, or an error.
    script += "set | while IFS= read -r line; do case $line in LEASEHOLD_*) echo \"${line%%=*}\";; esac; done\n";
    let mut keys = fuzz::report_env::KEYS;
    keys.sort_unstable();
    expected += &(keys.join("\n") + "\n");

    let output =
        Command::new("/bin/sh").arg("-c").arg(script).current_dir(dir.path()).env_clear().env("PATH", "").output();
    let output = output.expect("there is /bin/sh");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    assert_eq!(fs::read_dir(dir.path()).expect("it is there").count(), inputs.len());
}

/// Names that a shell would act upon, in a known order.
struct Random(u64);

impl Random {
    /// xorshift64*: as good as any here, and the same on each machine.
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// As `report_env` takes it: the times and the token, then names.
    fn input(&mut self) -> Vec<u8> {
        const NAMES: [&str; 10] = [
            "$(echo x >x)",
            "`echo x >x`",
            "; echo x >x;",
            "\necho x >x\n",
            "' \"",
            "A=1",
            "web",
            "\\",
            "&",
            "\u{2028}\0",
        ];
        let mut input: Vec<u8> = (0..20).map(|_| self.next() as u8).collect();
        for _ in 0..6 {
            let name = NAMES[self.next() as usize % NAMES.len()];
            input.push(name.len() as u8);
            input.extend_from_slice(name.as_bytes());
        }
        input
    }
}
