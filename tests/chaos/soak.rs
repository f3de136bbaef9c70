//! A hundred sidecars on twenty Leases for an hour, with faults all the while: what they hold in memory, descriptors
//! and threads does not grow.
//!
//! On each Lease two of five pods are killed, terminated and replaced again and again. The others live the whole run;
//! frozen, cut off, robbed of their apps and handed the lease they are like any. A process that lived for the whole
//! run is judged by the slope of its samples, by least squares over the last two thirds of the run: the first third is
//! for caches and an allocator to reach their size.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::contest::{Plan, QUICK, USUAL, mixed};
use crate::fault::Deck;
use crate::support::clock::{self, BootTime};
use crate::support::control_plane::ControlPlane;
use crate::support::sidecar::Shared;
use crate::world::{Pace, World};
use crate::{Hand, any_seed, conclude, minutes_since, number, pulse, verdict};

const LEASES: usize = 20;
const PODS: usize = 5;
const MINUTES: f64 = 60.0;
/// Between two samples of each process.
const SAMPLE_EVERY: Duration = Duration::from_secs(10);
/// In a shorter run a slope says nothing: one page of 4 kB in a minute is 240 kB an hour.
const LONG_ENOUGH: f64 = 30.0;
/// A leak of 32 bytes in each of a leader's renewals at one a second would be 115 kB an hour; so would one of 1 kB in
/// each of the two faults a minute that befall each lease.
const KB_AN_HOUR: f64 = 100.0;
/// One descriptor, or thread, that is lost with each tenth fault would be a dozen an hour.
const COUNT_AN_HOUR: f64 = 3.0;
/// What may be open at one moment and not at another: a connection that is being replaced, a question.
const COUNT_SLACK: u64 = 4;

/// What one process holds.
#[derive(Clone, Copy)]
struct Sample {
    at: BootTime,
    rss_kb: u64,
    anon_kb: u64,
    descriptors: u64,
    threads: u64,
}

/// Every process's samples: the pod, and the how manieth process of it.
type Samples = BTreeMap<(String, usize), Vec<Sample>>;

#[test]
#[ignore = "an hour: make soak"]
fn a_hundred_sidecars_hold_no_more_after_an_hour_of_faults() {
    let minutes = number("LEASEHOLD_SOAK_MINUTES").unwrap_or(MINUTES);
    let seed = number("LEASEHOLD_CHAOS_SEED").map_or_else(any_seed, |seed| seed as u64);
    println!("soak: {minutes} minutes, {LEASES} leases of {PODS} pods, seed {seed}");
    let control_plane = ControlPlane::start_pair();
    let plans: Vec<_> = (0..LEASES).map(plan).collect();
    let world = World::start(&control_plane, &plans, seed);
    let sampler = Sampler::start(&world);
    pulse::during(&world, || play(&world, minutes, seed));
    // A last look when all has been calm for a while.
    thread::sleep(2 * SAMPLE_EVERY);
    let samples = sampler.stop();
    let table = keep(&samples, seed);
    let mut wrongs = verdict::judge(&world, false);
    wrongs.extend(judge(&samples, minutes));
    println!("every sample: {}", table.display());
    conclude(world, wrongs, &format!("soak-{seed}"));
}

/// Twelve storms an hour, and a calm after each.
fn play(world: &World, minutes: f64, seed: u64) {
    let storm = Duration::from_secs_f64(minutes.min(MINUTES) * 60.0 / 12.0).max(Duration::from_secs(45));
    let pace = Pace { storm, pause: (10_000, 50_000), control_pause: (20_000, 90_000) };
    let mut lanes = world.lanes(seed, |_| 1);
    let mut surgery = Hand::new(world, Deck::Surgery.faults(), seed);
    let until = world.journal.began + Duration::from_secs_f64(minutes * 60.0);
    world.calm();
    while clock::now() < until {
        world.storm(&mut lanes, pace);
        world.calm();
        surgery.play(world);
        println!("soak: {:.1} minutes, {} things wrong", minutes_since(world.journal.began), world.wrongs().len());
    }
}

fn plan(lease: usize) -> Plan {
    Plan {
        times: if lease.is_multiple_of(2) { USUAL } else { QUICK },
        // Each kind of pod is among those that live and those that do not.
        pods: mixed(PODS, |pod| (pod + lease) % PODS < 2),
        ask_every: Duration::from_millis(250),
        writers: false,
    }
}

/// Looks at every process, until it is stopped.
struct Sampler {
    samples: Arc<Mutex<Samples>>,
    stopping: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
}

impl Sampler {
    fn start(world: &World) -> Self {
        let sidecars: Vec<Arc<Shared>> =
            world.contests.iter().flat_map(|contest| &contest.candidates).map(|pod| pod.shared.clone()).collect();
        let (samples, stopping) = (Arc::new(Mutex::new(Samples::new())), Arc::new(AtomicBool::new(false)));
        let (kept, until) = (samples.clone(), stopping.clone());
        let thread = thread::spawn(move || {
            while !until.load(Ordering::SeqCst) {
                for sidecar in &sidecars {
                    let (start, id) = sidecar.process();
                    if let Some(sample) = look(id) {
                        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                        kept.entry((sidecar.pod.clone(), start)).or_default().push(sample);
                    }
                }
                thread::sleep(SAMPLE_EVERY);
            }
        });
        Self { samples, stopping, thread }
    }

    fn stop(self) -> Samples {
        self.stopping.store(true, Ordering::SeqCst);
        let _ = self.thread.join();
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Nothing when the process has ended.
fn look(id: u32) -> Option<Sample> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let descriptors = fs::read_dir(format!("/proc/{id}/fd")).ok()?.count() as u64;
    Some(Sample {
        at: clock::now(),
        rss_kb: field("VmRSS")?,
        anon_kb: field("RssAnon")?,
        descriptors,
        threads: field("Threads")?,
    })
}

/// Writes every sample to a file.
fn keep(samples: &Samples, seed: u64) -> PathBuf {
    let mut table = String::from("pod\tprocess\tseconds\tVmRSS\tRssAnon\tdescriptors\tthreads\n");
    for ((pod, start), samples) in samples {
        for Sample { at, rss_kb, anon_kb, descriptors, threads } in samples {
            let line = format!("{pod}\t{start}\t{}\t{rss_kb}\t{anon_kb}\t{descriptors}\t{threads}\n", at.as_secs());
            table.push_str(&line);
        }
    }
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("soak-{seed}.tsv"));
    fs::write(&path, table).expect("writes the samples");
    path
}

/// What of a sample is judged, and by how much it may grow in an hour.
struct Held {
    name: &'static str,
    unit: &'static str,
    of: fn(&Sample) -> u64,
    an_hour: f64,
}

const HELD: [Held; 4] = [
    // With its file pages, which the kernel gives and takes.
    Held { name: "VmRSS", unit: " kB", of: |sample| sample.rss_kb, an_hour: f64::INFINITY },
    Held { name: "RssAnon", unit: " kB", of: |sample| sample.anon_kb, an_hour: KB_AN_HOUR },
    Held { name: "descriptors", unit: "", of: |sample| sample.descriptors, an_hour: COUNT_AN_HOUR },
    Held { name: "threads", unit: "", of: |sample| sample.threads, an_hour: COUNT_AN_HOUR },
];

/// Prints how what processes hold changes, and says what grows.
fn judge(samples: &Samples, minutes: f64) -> Vec<String> {
    let whole_run = Duration::from_secs_f64(minutes * 60.0 * 0.9);
    let lived = |samples: &[Sample]| samples[samples.len() - 1].at - samples[0].at >= whole_run;
    let of_whole_run: Vec<(&str, &[Sample])> = samples
        .iter()
        .filter(|(_, samples)| lived(samples))
        .map(|((pod, _), samples)| (pod.as_str(), samples.as_slice()))
        .collect();
    println!("memory: {} processes sampled, of which {} lived for the whole run", samples.len(), of_whole_run.len());
    if of_whole_run.is_empty() {
        return vec!["no process lived for the whole run: nothing was measured".to_owned()];
    }
    HELD.iter().flat_map(|held| held.judge(&of_whole_run, minutes >= LONG_ENOUGH)).collect()
}

impl Held {
    fn judge(&self, processes: &[(&str, &[Sample])], by_slope: bool) -> Vec<String> {
        let Self { name, unit, of, an_hour } = self;
        let slopes = sorted(processes.iter().map(|(_, samples)| slope(samples, *of)), f64::total_cmp);
        let last = |samples: &[Sample]| of(&samples[samples.len() - 1]);
        let ends = sorted(processes.iter().map(|(_, samples)| last(samples)), u64::cmp);
        let peak = processes.iter().flat_map(|(_, samples)| samples.iter().map(of)).max().unwrap_or_default();
        let (middle, top) = (slopes.len() / 2, slopes.len() - 1);
        println!(
            "  {name}: slope {:.2} to {:.2}, median {:.2}{unit} an hour; at the end {}{unit} in the median, {}{unit} at most; {peak}{unit} at any time",
            slopes[0], slopes[top], slopes[middle], ends[middle], ends[top]
        );
        // What settles grows less in each third; what leaks does not.
        let thirds = [0.0, 1.0, 2.0].map(|third| {
            let within = |samples: &[Sample]| slope_within(samples, *of, third / 3.0, (third + 1.0) / 3.0);
            processes.iter().map(|(_, samples)| within(samples)).sum::<f64>() / processes.len() as f64
        });
        println!(
            "    in the mean, by thirds of the run: {:.1}, {:.1}, {:.1}{unit} an hour",
            thirds[0], thirds[1], thirds[2]
        );
        let mut wrongs = Vec::new();
        for (pod, samples) in processes {
            let slope = slope(samples, *of);
            if by_slope && slope > *an_hour {
                wrongs.push(format!("{name} of {pod} grows by {slope:.1}{unit} an hour"));
            }
            // After the first tenth everything that a process opens at its start is open.
            let (before, after) = (of(&samples[samples.len() / 10]), last(samples));
            if unit.is_empty() && after > before + COUNT_SLACK {
                wrongs.push(format!("{name} of {pod}: {before} at first, {after} at the end"));
            }
        }
        wrongs
    }
}

fn sorted<T>(values: impl Iterator<Item = T>, order: impl FnMut(&T, &T) -> std::cmp::Ordering) -> Vec<T> {
    let mut values: Vec<T> = values.collect();
    values.sort_by(order);
    values
}

/// By least squares over the last two thirds of the time, an hour.
fn slope(samples: &[Sample], value: fn(&Sample) -> u64) -> f64 {
    slope_within(samples, value, 1.0 / 3.0, 1.0)
}

/// The same between two parts of the time.
fn slope_within(samples: &[Sample], value: fn(&Sample) -> u64, from: f64, to: f64) -> f64 {
    let (first, last) = (samples[0].at, samples[samples.len() - 1].at);
    let whole = last - first;
    let within = whole.mul_f64(from)..=whole.mul_f64(to);
    let part = samples.iter().filter(|sample| within.contains(&(sample.at - first)));
    let points: Vec<(f64, f64)> =
        part.map(|sample| ((sample.at - first).as_secs_f64() / 3600.0, value(sample) as f64)).collect();
    let count = points.len() as f64;
    let (mean_x, mean_y) =
        (points.iter().map(|(x, _)| x).sum::<f64>() / count, points.iter().map(|(_, y)| y).sum::<f64>() / count);
    let spread: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    let common: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    if spread > 0.0 { common / spread } else { 0.0 }
}

#[test]
fn a_slope_is_told_from_noise_and_the_first_third_does_not_count() {
    let of = |grow: fn(u64) -> u64| -> Vec<Sample> {
        let sample = |i: u64| Sample {
            at: Duration::from_secs(10 * i),
            rss_kb: grow(i),
            anon_kb: 0,
            descriptors: 0,
            threads: 0,
        };
        (0..360).map(sample).collect()
    };
    let rss = |sample: &Sample| sample.rss_kb;
    assert!((slope(&of(|i| 1000 + 2 * i), rss) - 720.0).abs() < 1e-6);
    assert_eq!(slope(&of(|_| 1000), rss), 0.0);
    assert_eq!(slope(&of(|i| if i < 100 { 10 * i } else { 5000 }), rss), 0.0);
    let settles = of(|i| if i < 130 { 10 * i } else { 1300 });
    assert!((slope_within(&settles, rss, 0.0, 1.0 / 3.0) - 3600.0).abs() < 1e-6);
    assert_eq!(slope_within(&settles, rss, 2.0 / 3.0, 1.0), 0.0);
    assert!(slope(&of(|i| 1000 + i % 7), rss).abs() < 1.0);
}
