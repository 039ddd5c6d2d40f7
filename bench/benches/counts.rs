//! Instructions of the packet logic, for the cases whose time the benches `forward` and `table`
//! take.
//!
//! `cargo bench --bench counts` starts itself a second time under valgrind's callgrind, which runs
//! every instruction in a machine of its own and counts it. Each case runs once to warm up and once
//! to be counted. A count needs no quiet machine, but knows nothing of caches, branches and waiting.

mod cases {
    pub(crate) mod forward;
    pub(crate) mod harness;
    pub(crate) mod table;
}

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cases::harness::Harness;

/// Tells this program that it runs under callgrind.
const COUNTED: &str = "--under-callgrind";

/// What callgrind does about the function [`counted`]. The patterns differ because valgrind 3.19
/// follows only one option for each pattern.
const AROUND_COUNTED: [&str; 2] = ["--toggle-collect=*counts*::counted", "--dump-after=*::counted"];

/// Callgrind counts what runs below this function, and writes the sum whenever it returns. It takes
/// a pointer, so that all cases go through the one function and none is moved out of it.
#[inline(never)]
fn counted(routine: &mut dyn FnMut()) {
    routine();
    // Were the call the last thing here, it would become a jump.
    black_box(());
}

/// Says on the standard output what is counted, a line for each of callgrind's sums.
struct Counter;

impl Harness for Counter {
    fn case<Output>(
        &mut self,
        group: &str,
        name: &str,
        elements: usize,
        mut routine: impl FnMut() -> Output,
    ) {
        black_box(routine());
        println!("{group}/{name} {elements}");
        counted(&mut || {
            black_box(routine());
        });
    }
}

/// What runs under callgrind. The first line says how checksums are made there.
fn count_cases() {
    println!("{}", weft_sys::checksum::select().1);
    let mut counter = Counter;
    // What counting itself takes.
    counter.case("no", "case", 1, || ());
    cases::forward::all(&mut counter);
    cases::table::lookup(&mut counter);
}

/// A file that is removed however this program ends.
struct Sums(PathBuf);

impl Drop for Sums {
    fn drop(&mut self) {
        // It is not there if callgrind did not start.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Runs the cases under callgrind: what they print, and callgrind's profile.
fn run_under_callgrind() -> Result<(String, String)> {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let sums = Sums(directory.join(format!("counts.{}", std::process::id())));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet", "--collect-atstart=no", "--combine-dumps=yes"])
        .args(AROUND_COUNTED)
        .arg(format!("--callgrind-out-file={}", sums.0.display()))
        .arg(std::env::current_exe()?)
        .arg(COUNTED)
        .output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "The cases failed under callgrind: {errors}");
    let profile = std::fs::read_to_string(&sums.0).context("Callgrind's sums cannot be read")?;
    Ok((String::from_utf8(output.stdout)?, profile))
}

/// The sums in a profile of several parts, the last of which is about the time after the last case.
fn sums(profile: &str) -> Result<Vec<u64>> {
    let lines = profile.lines().filter_map(|line| line.strip_prefix("totals: "));
    let mut sums: Vec<u64> = lines.map(|sum| sum.trim().parse()).collect::<Result<_, _>>()?;
    sums.pop();
    Ok(sums)
}

fn print_counts(names: &str, profile: &str) -> Result<()> {
    let sums = sums(profile)?;
    ensure!(
        sums.len() == names.lines().count() && !sums.contains(&0),
        "Callgrind did not find every case: {sums:?} for\n{names}"
    );
    let around = sums[0];
    println!("{:<24}{:>14}{:>10}", "instructions", "one pass", "each");
    for (line, sum) in names.lines().zip(sums).skip(1) {
        let (name, elements) = line.rsplit_once(' ').context("A case has a name and a size")?;
        let sum = sum - around;
        println!("{name:<24}{sum:>14}{:>10.1}", sum as f64 / elements.parse::<f64>()?);
    }
    Ok(())
}

fn main() -> Result<()> {
    if std::env::args().any(|argument| argument == COUNTED) {
        count_cases();
        return Ok(());
    }
    let Ok(version) = Command::new("valgrind").arg("--version").output() else {
        // Not an error, so that the benches after this one run where there is no valgrind.
        println!("!!! SKIPPED: valgrind is not installed; on Debian: apt-get install valgrind");
        return Ok(());
    };
    let (printed, profile) = run_under_callgrind()?;
    let (form, names) = printed.split_once('\n').context("The cases print something")?;
    println!("{}, checksums: {form}", String::from_utf8_lossy(&version.stdout).trim());
    print_counts(names, &profile)
}
