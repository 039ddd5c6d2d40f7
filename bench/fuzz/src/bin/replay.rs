//! Runs the targets without libFuzzer: every file of every corpus, then mutations of them.
//!
//! `replay [--seconds N] [--seed N] [--corpus DIRECTORY] [TARGET or FILE]...`
//!
//! The seconds are those of all targets together; 0 runs the corpora only. Named files are given to
//! the targets before them on the line. The status is 1 after a finding, whose input is then in
//! `artifacts/TARGET/`.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use weft_fuzz::mutate::{Random, mutate};
use weft_fuzz::{TARGETS, Target};

/// One input may take this long; more is a finding.
const PATIENCE: Duration = Duration::from_secs(5);

/// Executions between two looks at the clock.
const ROUND: u32 = 64;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(task) = Task::parse(&arguments) else {
        eprintln!(
            "usage: replay [--seconds N] [--seed N] [--corpus DIRECTORY] [TARGET or FILE]..."
        );
        return ExitCode::from(2);
    };
    match task.run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Task {
    seconds: u64,
    seed: u64,
    corpus: PathBuf,
    targets: Vec<(&'static str, Target)>,
    files: Vec<PathBuf>,
}

impl Task {
    fn parse(arguments: &[String]) -> Option<Self> {
        let home = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut task = Self {
            seconds: 60,
            seed: 1,
            corpus: home.join("corpus"),
            targets: Vec::new(),
            files: Vec::new(),
        };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match argument.as_str() {
                "--seconds" => task.seconds = rest.next()?.parse().ok()?,
                "--seed" => task.seed = rest.next()?.parse().ok()?,
                "--corpus" => task.corpus = rest.next()?.into(),
                name => match TARGETS.iter().find(|(target, _)| *target == name) {
                    Some(target) => task.targets.push(*target),
                    None if Path::new(name).is_file() => task.files.push(name.into()),
                    None => return None,
                },
            }
        }
        if task.targets.is_empty() {
            task.targets = TARGETS.to_vec();
        }
        Some(task)
    }

    /// False if anything was found.
    fn run(&self) -> io::Result<bool> {
        let share = Duration::from_secs(self.seconds) / self.targets.len() as u32;
        let mut findings = 0;
        let mut all = 0;
        for (name, target) in &self.targets {
            let inputs = self.inputs(name)?;
            let mut run = Run { name, target: *target, executions: 0, found: false };
            run.replay(&inputs)?;
            if self.files.is_empty() && !run.found {
                run.explore(&inputs, share, self.seed)?;
            }
            let state = if run.found { "FOUND" } else { "ok" };
            println!(
                "{name:15} {:>6} inputs {:>12} executions  {state}",
                inputs.len(),
                run.executions
            );
            findings += u32::from(run.found);
            all += run.executions;
        }
        println!("{:15} {:>6}        {all:>12} executions  {findings} findings", "all", "");
        Ok(findings == 0)
    }

    fn inputs(&self, name: &str) -> io::Result<Vec<Vec<u8>>> {
        if !self.files.is_empty() {
            return self.files.iter().map(fs::read).collect();
        }
        let mut paths = Vec::new();
        for entry in fs::read_dir(self.corpus.join(name))? {
            paths.push(entry?.path());
        }
        // The order of a directory differs from machine to machine, and the seed is to mean the same.
        paths.sort();
        if paths.is_empty() {
            return Err(io::Error::other(format!("the corpus of {name} is empty")));
        }
        paths.iter().map(fs::read).collect()
    }
}

struct Run<'a> {
    name: &'a str,
    target: Target,
    executions: u64,
    found: bool,
}

impl Run<'_> {
    fn replay(&mut self, inputs: &[Vec<u8>]) -> io::Result<()> {
        inputs.iter().try_for_each(|input| self.execute(input))
    }

    fn explore(&mut self, inputs: &[Vec<u8>], share: Duration, seed: u64) -> io::Result<()> {
        let (mut random, mut input, start) = (Random::new(seed), Vec::new(), Instant::now());
        while start.elapsed() < share && !self.found {
            for _ in 0..ROUND {
                mutate(inputs, &mut random, &mut input);
                self.execute(&input)?;
            }
        }
        Ok(())
    }

    fn execute(&mut self, input: &[u8]) -> io::Result<()> {
        if self.found {
            return Ok(());
        }
        let start = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| (self.target)(input)));
        self.executions += 1;
        let took = start.elapsed();
        if result.is_err() || took > PATIENCE {
            self.found = true;
            let path = self.keep(input)?;
            println!("{}: found after {took:?}, see {}", self.name, path.display());
        }
        Ok(())
    }

    fn keep(&self, input: &[u8]) -> io::Result<PathBuf> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("artifacts").join(self.name);
        fs::create_dir_all(&directory)?;
        let path = directory.join(format!("replay-{}", self.executions));
        fs::write(&path, input)?;
        Ok(path)
    }
}
