//! Measures a bundle's dispatches on a GPU: where the time of a decoded token and of a prefilled chunk goes.
//!
//! ```sh
//! cargo run --release -p gembin-runtime --example vulkan_steps -- BUNDLE [--device NAME] [--rows N,N] [--at POSITION]
//! ```
//!
//! For each number of rows (1: decoding) the program that serves it is run as it is, for the time of a call, and then
//! with every dispatch waiting for the one before, for the time of each. Bytes are those of the weights that a dispatch
//! reads. The environment chooses variants of kernels as it does for gemrun.

use gembin_bundle::gpu::Resource;
use gembin_bundle::manifest::{Device, Manifest, Phase, Program, Work};
use gembin_runtime::arena::Arena;
use gembin_runtime::drivers::vulkan::{Pick, VulkanDriver, VulkanOptions};
use gembin_runtime::drivers::{Call, Driver, LoadContext, Row};
use gembin_runtime::loader::{Bundle, Integrity};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Calls whose median is the time of a call.
const CALLS: usize = 32;
/// Calls over which the time of a step is averaged.
const PROFILED: usize = 8;

struct Options {
    bundle: String,
    pick: Pick,
    rows: Vec<usize>,
    at: u32,
}

type Failure = Box<dyn std::error::Error>;

fn options() -> Result<Options, Failure> {
    let mut args = std::env::args().skip(1);
    let mut options = Options {
        bundle: args.next().ok_or("which bundle?")?,
        pick: Pick::Best,
        rows: vec![1, 512],
        at: 0,
    };
    while let Some(name) = args.next() {
        let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--device" => options.pick = Pick::Named(value),
            "--rows" => {
                options.rows = value.split(',').map(str::parse).collect::<Result<_, _>>()?;
            }
            "--at" => options.at = value.parse()?,
            _ => return Err(format!("unknown option {name}").into()),
        }
    }
    Ok(options)
}

/// Steps of one kernel.
#[derive(Default)]
struct Sum {
    ns: f64,
    steps: usize,
    weight_bytes: u64,
}

fn main() -> Result<(), Failure> {
    let options = options()?;
    let start = Instant::now();
    let bundle = Bundle::open(Path::new(&options.bundle), Integrity::Structure)?;
    let manifest = bundle.shared_manifest();
    let plan = manifest
        .plans
        .iter()
        .position(|plan| plan.devices == [Device::Vulkan])
        .ok_or("the bundle has no plan for a GPU")?;
    let context = LoadContext {
        plan,
        weights: bundle.weights(),
        arena: Arc::new(Arena::new(usize::try_from(manifest.arena.bytes)?)?),
        threads: 0,
        manifest: Arc::clone(&manifest),
    };
    let vulkan = VulkanOptions::from_environment()?;
    let mut driver = VulkanDriver::load(&context, &options.pick, &vulkan)?;
    println!("{}", driver.describe());
    println!("loaded in {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
    let variants: BTreeMap<String, String> = driver
        .variants()
        .map(|chosen| (chosen.kernel.clone(), chosen.variant.clone()))
        .collect();
    for chosen in driver.variants() {
        for reason in &chosen.passed_over {
            println!("{}: {reason}", chosen.kernel);
        }
    }
    for &rows in &options.rows {
        let programs = &manifest.plans[plan].programs;
        let phase = if rows == 1 {
            Phase::Decode
        } else {
            Phase::Prefill
        };
        let fits = |p: &&Program| p.phase == phase && p.max_rows as usize >= rows;
        let Some(program) = programs.iter().position(|p| fits(&p)) else {
            println!("\nno program takes {rows} rows");
            continue;
        };
        let call_ns = time_calls(&mut driver, &manifest, program, rows, options.at)?;
        driver.set_profiling(true)?;
        for _ in 0..PROFILED {
            run(&mut driver, &manifest, program, rows, options.at)?;
        }
        let step_ns: Vec<f64> = driver
            .step_ns(program)
            .iter()
            .map(|ns| ns / PROFILED as f64)
            .collect();
        driver.set_profiling(false)?;
        report(
            &manifest,
            &programs[program],
            rows,
            call_ns,
            &step_ns,
            &variants,
        );
    }
    Ok(())
}

fn run(
    driver: &mut VulkanDriver,
    manifest: &Manifest,
    program: usize,
    rows: usize,
    at: u32,
) -> Result<(), Failure> {
    let plan = manifest
        .plans
        .iter()
        .find(|plan| plan.devices == [Device::Vulkan]);
    let steps = plan.ok_or("no plan")?.programs[program].steps.len();
    let rows: Vec<Row> = (0..rows as u32)
        .map(|row| Row {
            token: (row * 7 + 2) % manifest.limits.vocab,
            pos: (at + row) % manifest.limits.context,
            slot: 0,
        })
        .collect();
    let last = [rows.len() as u32 - 1];
    driver.submit(
        program,
        0..steps,
        Call {
            rows: &rows,
            outs: &last,
        },
    )?;
    Ok(driver.wait()?)
}

/// The median time of a call.
fn time_calls(
    driver: &mut VulkanDriver,
    manifest: &Manifest,
    program: usize,
    rows: usize,
    at: u32,
) -> Result<f64, Failure> {
    run(driver, manifest, program, rows, at)?;
    let mut times = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let start = Instant::now();
        run(driver, manifest, program, rows, at)?;
        times.push(start.elapsed().as_secs_f64() * 1e9);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[CALLS / 2])
}

fn report(
    manifest: &Manifest,
    program: &Program,
    rows: usize,
    call_ns: f64,
    step_ns: &[f64],
    variants: &BTreeMap<String, String>,
) {
    let mut sums: BTreeMap<&str, Sum> = BTreeMap::new();
    for (step, ns) in program.steps.iter().zip(step_ns) {
        let Work::Gpu(work) = &step.work else {
            continue;
        };
        let sum = sums
            .entry(&manifest.kernels[work.kernel as usize].name)
            .or_default();
        sum.ns += ns;
        sum.steps += 1;
        sum.weight_bytes += work
            .bindings
            .iter()
            .map(|resource| match resource {
                Resource::Data {
                    piece,
                    gathered: false,
                    ..
                }
                | Resource::Scales {
                    piece,
                    gathered: false,
                    ..
                } => piece.bytes,
                _ => 0,
            })
            .sum::<u64>();
    }
    let total: f64 = step_ns.iter().sum();
    println!(
        "\n{} of {rows} rows: {:.3} ms a call, {:.3} ms in {} dispatches one by one",
        program.name,
        call_ns / 1e6,
        total / 1e6,
        step_ns.len()
    );
    println!(
        "{:>9} {:>6} {:>6} {:>9} {:>8}  kernel",
        "us", "share", "steps", "us each", "GB/s"
    );
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by(|a, b| b.1.ns.total_cmp(&a.1.ns));
    for (name, sum) in sums {
        println!(
            "{:>9.1} {:>5.1}% {:>6} {:>9.2} {:>8.1}  {name} ({})",
            sum.ns / 1e3,
            100.0 * sum.ns / total,
            sum.steps,
            sum.ns / 1e3 / sum.steps as f64,
            sum.weight_bytes as f64 / sum.ns,
            variants.get(name).map_or("", String::as_str)
        );
    }
}
