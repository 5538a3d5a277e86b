//! The process that compiles, and what starts it.
//!
//! Jobs go in as one JSON document on standard input; what happens comes out as one JSON line each, at once, so that the
//! starter knows which job was in work when the process ended. After a job that ended it, a new one goes on behind it.

use super::radv::{Executable, Radv};
use super::{Abilities, Chip, Figures, IsaError, Job, Listing, Mesa, Outcome, Report, Row};
use gembin_bundle::gpu::{MatrixShape, Needs};
use serde::{Deserialize, Serialize};
use std::env;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::thread;

/// Most lines of a failed process's own words that an error repeats.
const SAID_LINES: usize = 3;

/// Fewest jobs worth a process of their own.
const LEAST_SHARE: usize = 8;

/// What the process says.
#[derive(Serialize, Deserialize)]
enum Event {
    /// There is a device.
    Device(Abilities),
    /// There is none.
    NoDevice(String),
    /// It works on a job now.
    Started { job: usize, subgroup: Option<u32> },
    /// The job is done.
    Compiled(Executable),
    /// The driver refused it.
    Refused(String),
    /// The device lacks something.
    Unsupported { job: usize, lacks: String },
}

/// Compiles the jobs on standard input; the whole life of the process that [`super::examine`] starts.
///
/// # Errors
/// When its input is not jobs, or nobody reads its output.
pub fn worker() -> io::Result<()> {
    let mut text = String::new();
    io::stdin().lock().read_to_string(&mut text)?;
    let jobs: Vec<Job> = serde_json::from_str(&text)?;
    let radv = match Radv::open() {
        Ok(radv) => radv,
        Err(error) => return say(&Event::NoDevice(error.to_string())),
    };
    let device = radv.abilities();
    say(&Event::Device(device.clone()))?;
    for (index, job) in jobs.iter().enumerate() {
        if let Some(lacks) = lacks(device, job) {
            say(&Event::Unsupported { job: index, lacks })?;
            continue;
        }
        for subgroup in sizes(device, job) {
            say(&Event::Started {
                job: index,
                subgroup,
            })?;
            say(&match radv.compile(job, subgroup) {
                Ok(executable) => Event::Compiled(executable),
                Err(error) => Event::Refused(error.to_string()),
            })?;
        }
    }
    Ok(())
}

fn say(event: &Event) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, event)?;
    out.write_all(b"\n")?;
    out.flush()
}

/// What a device lacks for a job.
fn lacks(device: &Abilities, job: &Job) -> Option<String> {
    let Needs {
        int_dot,
        f16,
        matrix,
    } = job.needs;
    if int_dot && !device.int_dot {
        return Some("packed dot products".into());
    }
    if f16 && !device.f16 {
        return Some("f16".into());
    }
    if let Some(shape) = matrix.filter(|shape| !device.matrices.contains(shape)) {
        return Some(format!("matrices {}", shape_name(shape)));
    }
    let sizes = device.subgroup_least..=device.subgroup_most;
    job.subgroup
        .filter(|size| !sizes.contains(size))
        .map(|size| format!("subgroups of {size}"))
}

fn shape_name(shape: MatrixShape) -> &'static str {
    match shape {
        MatrixShape::F16x16 => "f16 16x16x16",
        MatrixShape::F16x8 => "f16 8x8x8",
        MatrixShape::I8x16 => "s8 16x16x16",
        MatrixShape::I8x8 => "s8 8x8x8",
        MatrixShape::I8x16x32 => "s8 16x16x32",
    }
}

/// The subgroup sizes to compile a job with: its own, else the driver's choice and the smallest.
fn sizes(device: &Abilities, job: &Job) -> Vec<Option<u32>> {
    match job.subgroup {
        Some(size) => vec![Some(size)],
        None if device.subgroup_least == device.subgroup_default => vec![None],
        None => vec![None, Some(device.subgroup_least)],
    }
}

pub(super) fn examine(jobs: &[Job], chip: Chip, mesa: &Mesa) -> Result<Report, IsaError> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let share = jobs.len().div_ceil(cores).max(LEAST_SHARE);
    let mut parts: Vec<&[Job]> = jobs.chunks(share).collect();
    if parts.is_empty() {
        // The device is worth a report without kernels.
        parts.push(jobs);
    }
    let reports: Result<Vec<Report>, IsaError> = thread::scope(|scope| {
        let running: Vec<_> = parts
            .into_iter()
            .map(|part| scope.spawn(move || examine_part(part, chip, mesa)))
            .collect();
        let panicked = || IsaError::Protocol("nothing: its reader has ended".into());
        let ended = running.into_iter().map(|thread| thread.join());
        ended
            .map(|result| result.unwrap_or_else(|_| Err(panicked())))
            .collect()
    });
    let mut reports = reports?.into_iter();
    let first = reports.next().ok_or(IsaError::NoDevice)?;
    Ok(reports.fold(first, |mut report, next| {
        report.rows.extend(next.rows);
        report
    }))
}

/// Compiles jobs one after another, in as many processes as it takes.
fn examine_part(jobs: &[Job], chip: Chip, mesa: &Mesa) -> Result<Report, IsaError> {
    let mut device = None;
    let mut rows = Vec::new();
    let mut first = 0;
    while first < jobs.len() || device.is_none() {
        match one_process(&jobs[first..], chip, mesa, &mut device, &mut rows)? {
            Some(died) => first += died + 1,
            None => break,
        }
    }
    let device = device.ok_or(IsaError::NoDevice)?;
    Ok(Report { device, rows })
}

/// Runs one process; the job over which it ended, if it did not come to the last.
fn one_process(
    jobs: &[Job],
    chip: Chip,
    mesa: &Mesa,
    device: &mut Option<Abilities>,
    rows: &mut Vec<Row>,
) -> Result<Option<usize>, IsaError> {
    let mut command = Command::new(env::current_exe()?);
    command
        .arg("isa-worker")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    mesa.select(&mut command, chip);
    let mut child = command.spawn()?;
    let input = child.stdin.take();
    let output = child.stdout.take();
    let complaints = child.stderr.take();
    let mut current = None;
    *device = None;
    let (read, said) = thread::scope(|scope| {
        scope.spawn(move || {
            // A process that ended before it had read everything is told by its output.
            if let Some(input) = input {
                let _ = serde_json::to_writer(input, jobs);
            }
        });
        let said = scope.spawn(move || last_lines(complaints));
        let read = || -> Result<(), IsaError> {
            for line in output
                .map(BufReader::new)
                .into_iter()
                .flat_map(BufRead::lines)
            {
                let line = line?;
                let event: Event = serde_json::from_str(&line)
                    .map_err(|_| IsaError::Protocol(line.chars().take(80).collect()))?;
                take(event, jobs, &mut current, device, rows)?;
            }
            Ok(())
        };
        let read = read();
        if read.is_err() {
            // The process may still want to write, to nobody.
            let _ = child.kill();
        }
        (read, said.join().unwrap_or_default())
    });
    let status = child.wait()?;
    read?;
    match current {
        // It ended in the middle of a job.
        Some((job, subgroup)) => {
            rows.push(row(
                &jobs[job],
                subgroup,
                Outcome::Failed(format!("the driver ended ({status}){said}")),
            ));
            Ok(Some(job))
        }
        None if device.is_some() && status.success() => Ok(None),
        None => Err(IsaError::Ended {
            status: status.to_string(),
            said,
        }),
    }
}

/// Enters an event into the report.
fn take(
    event: Event,
    jobs: &[Job],
    current: &mut Option<(usize, Option<u32>)>,
    device: &mut Option<Abilities>,
    rows: &mut Vec<Row>,
) -> Result<(), IsaError> {
    let out_of_turn = || IsaError::Protocol("a result without its job".into());
    let outcome = match event {
        Event::Device(found) => {
            *device = Some(found);
            return Ok(());
        }
        Event::NoDevice(reason) => return Err(IsaError::Told(reason)),
        Event::Started { job, subgroup } => {
            *current = Some((job, subgroup));
            return match jobs.get(job) {
                Some(_) => Ok(()),
                None => Err(out_of_turn()),
            };
        }
        Event::Unsupported { job, lacks } => {
            let job = jobs.get(job).ok_or_else(out_of_turn)?;
            rows.push(row(
                job,
                job.subgroup,
                Outcome::Unsupported(format!("the device has no {lacks}")),
            ));
            return Ok(());
        }
        Event::Compiled(executable) => Outcome::Code(Box::new(figures(executable)?)),
        Event::Refused(reason) => Outcome::Failed(reason),
    };
    let (job, subgroup) = current.take().ok_or_else(out_of_turn)?;
    rows.push(row(&jobs[job], subgroup, outcome));
    Ok(())
}

fn row(job: &Job, subgroup: Option<u32>, outcome: Outcome) -> Row {
    Row {
        kernel: job.kernel.clone(),
        variant: job.variant.clone(),
        subgroup_by_driver: subgroup.is_none(),
        outcome,
    }
}

fn figures(executable: Executable) -> Result<Figures, IsaError> {
    let value = |name: &str| {
        let found = executable.statistics.iter().find(|(n, _)| n == name);
        found.map(|&(_, value)| value as u32).ok_or_else(|| {
            let names: Vec<&str> = executable.statistics.iter().map(|(n, _)| &**n).collect();
            IsaError::Told(format!(
                "the driver tells no {name:?}, only {}; use RADV of Mesa 25.0 (.ci/mesa fetch gets it)",
                names.join(", ")
            ))
        })
    };
    let assembly = executable
        .texts
        .iter()
        .find(|(name, _)| name == "Assembly")
        .map(|(_, text)| text.clone())
        .ok_or(IsaError::Silent)?;
    let listing = Listing::of(&assembly);
    // The driver's own count leaves out what it inserts last, a few instructions.
    let (read, told) = (listing.all.instructions, value("Instructions")?);
    if read.abs_diff(told) > told / 20 + 10 {
        return Err(IsaError::Told(format!(
            "of {told} instructions, {read} are in the driver's disassembly; use RADV of Mesa 25.0 (.ci/mesa fetch gets it)"
        )));
    }
    Ok(Figures {
        subgroup: executable.subgroup,
        vgprs: value("VGPRs")?,
        sgprs: value("SGPRs")?,
        spilled_vgprs: value("Spilled VGPRs")?,
        spilled_sgprs: value("Spilled SGPRs")?,
        scratch_bytes: value("Scratch size")?,
        lds_bytes: value("LDS size")?,
        // The driver counts a wave of 64 as two.
        waves_per_simd: value("Subgroups per SIMD")? * 32 / executable.subgroup.max(32),
        code_bytes: value("Code size")?,
        latency_cycles: value("Latency")?,
        inverse_throughput_cycles: value("Inverse Throughput")?,
        listing,
        assembly,
    })
}

/// The end of what a process complains of, as ` : ...`, on one line.
fn last_lines(complaints: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut complaints) = complaints {
        // What cannot be read was not said.
        let _ = complaints.read_to_end(&mut bytes);
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        // The null device is no card that has an address.
        .filter(|line| !line.is_empty() && !line.contains("ac_compute_device_uuid"))
        .collect();
    match &lines[lines.len().saturating_sub(SAID_LINES)..] {
        [] => String::new(),
        last => format!(": {}", last.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phoenix() -> Abilities {
        Abilities {
            name: "phoenix".into(),
            int_dot: true,
            f16: true,
            matrices: vec![MatrixShape::F16x16, MatrixShape::I8x16],
            subgroup_default: 64,
            subgroup_least: 32,
            subgroup_most: 64,
        }
    }

    fn job(needs: Needs, subgroup: Option<u32>) -> Job {
        Job {
            kernel: "k".into(),
            variant: "v".into(),
            code: Vec::new(),
            bindings: 1,
            immediates: 0,
            needs,
            subgroup,
        }
    }

    #[test]
    fn a_job_is_left_out_only_for_what_the_device_lacks() {
        let all = Needs {
            int_dot: true,
            f16: true,
            matrix: Some(MatrixShape::F16x16),
        };
        assert_eq!(lacks(&phoenix(), &job(all, Some(32))), None);
        assert_eq!(lacks(&phoenix(), &job(Needs::default(), None)), None);
        let small = Needs {
            matrix: Some(MatrixShape::F16x8),
            ..all
        };
        let without = |device: Abilities, needs, subgroup| lacks(&device, &job(needs, subgroup));
        let matrices = Some("matrices f16 8x8x8".to_owned());
        assert_eq!(without(phoenix(), small, None), matrices);
        assert_eq!(
            without(phoenix(), all, Some(8)),
            Some("subgroups of 8".to_owned())
        );
        let old = Abilities {
            int_dot: false,
            ..phoenix()
        };
        assert_eq!(
            without(old, all, None),
            Some("packed dot products".to_owned())
        );
    }

    #[test]
    fn sizes_are_the_jobs_own_or_all_to_look_at() {
        let any = job(Needs::default(), None);
        assert_eq!(sizes(&phoenix(), &any), [None, Some(32)]);
        assert_eq!(
            sizes(&phoenix(), &job(Needs::default(), Some(64))),
            [Some(64)]
        );
        let one_size = Abilities {
            subgroup_least: 64,
            ..phoenix()
        };
        assert_eq!(sizes(&one_size, &any), [None]);
    }

    #[test]
    fn a_result_belongs_to_the_job_in_work() {
        let jobs = [job(Needs::default(), None)];
        let (mut current, mut device, mut rows) = (None, None, Vec::new());
        let mut feed = |event, rows: &mut _| take(event, &jobs, &mut current, &mut device, rows);
        let refused = || Event::Refused("no".into());
        feed(refused(), &mut rows).expect_err("no job was in work");
        let started = |job| Event::Started {
            job,
            subgroup: None,
        };
        feed(started(7), &mut rows).expect_err("there is no such job");
        feed(started(0), &mut rows).expect("a job starts");
        feed(refused(), &mut rows).expect("it ends");
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].outcome, Outcome::Failed("no".into()));
    }
}
