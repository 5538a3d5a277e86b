//! The driver on a real Vulkan device, with the validation layer listening: results, replays, splits, ways of loading
//! weights, refusals. There must be a device: without one these tests fail.

use super::testing::{
    BEST_AT, CANDIDATES, COLS, CONTEXT, LOGITS, MAX_OUTS, MAX_ROWS, SLOTS, TABLE_ROWS, VALUE_BYTES,
    VOCAB, X, context, load, manifest, options, weight_at,
};
use super::{CacheFolder, Pick, Validation, VulkanDriver, VulkanOptions};
use crate::drivers::{Call, Driver, Row};
use gembin_bundle::gpu::{Extent, Needs};
use gembin_bundle::manifest::{Manifest, Work};

/// What the plan computes, on the host.
#[derive(Default)]
struct Model {
    /// By slot, position and column.
    keys: Vec<f32>,
}

impl Model {
    /// Logits of the rows asked for.
    fn run(&mut self, rows: &[Row], outs: &[u32]) -> Vec<Vec<f32>> {
        self.keys.resize((SLOTS * CONTEXT * COLS) as usize, 0.0);
        let at = |row: &Row, col: u32| ((row.slot * CONTEXT + row.pos) * COLS + col) as usize;
        for row in rows {
            for col in 0..COLS {
                let fact = match col {
                    0 => row.token,
                    1 => row.pos,
                    2 => row.slot,
                    _ => 0,
                };
                let mut value = fact as f32 * 2.0;
                for which in [0, 2] {
                    // Blocks of 16 rows by one word: the kernel reads word `col`, rows 0 to 15.
                    value += (0..TABLE_ROWS)
                        .map(|r| weight_at(which, r, col))
                        .sum::<f32>();
                }
                self.keys[at(row, col)] += value;
            }
        }
        outs.iter()
            .map(|&out| {
                (0..VOCAB)
                    .map(|t| self.keys[at(&rows[out as usize], t % COLS)] + t as f32)
                    .collect()
            })
            .collect()
    }
}

fn row(token: u32, pos: u32, slot: u32) -> Row {
    Row { token, pos, slot }
}

/// Runs a whole program and compares logits and candidates with the host's.
#[track_caller]
fn run_and_compare(driver: &mut VulkanDriver, model: &mut Model, rows: &[Row], outs: &[u32]) {
    driver.submit(0, 0..6, Call { rows, outs }).unwrap();
    driver.wait().unwrap();
    let want = model.run(rows, outs);
    let arena = std::sync::Arc::clone(&driver.context.arena);
    let best: Vec<f32> = {
        let words = outs.len() * 2 * CANDIDATES as usize;
        // SAFETY: the driver is idle.
        unsafe { arena.f32s(BEST_AT, words) }.to_vec()
    };
    driver
        .fetch(LOGITS, (outs.len() * VOCAB as usize * 4) as u64)
        .unwrap();
    // SAFETY: the driver is idle.
    let logits = unsafe { arena.f32s(LOGITS, outs.len() * VOCAB as usize) };
    for (index, want) in want.iter().enumerate() {
        let got = &logits[index * VOCAB as usize..(index + 1) * VOCAB as usize];
        assert_eq!(got, want, "logits of output {index}");
        let mut tokens: Vec<usize> = (0..want.len()).collect();
        tokens.sort_by(|&a, &b| want[b].total_cmp(&want[a]).then(a.cmp(&b)));
        for k in 0..CANDIDATES as usize {
            let at = (index * CANDIDATES as usize + k) * 2;
            assert_eq!(best[at].to_bits() as usize, tokens[k], "candidate {k}");
            assert_eq!(best[at + 1], want[tokens[k]], "its logit");
        }
    }
}

/// Several calls of several kinds, some of them again.
#[track_caller]
fn exercise(driver: &mut VulkanDriver) {
    let mut model = Model::default();
    let calls: [(&[Row], &[u32]); 6] = [
        (&[row(7, 0, 0)], &[0]),
        (&[row(3, 1, 0), row(9, 5, 1), row(39, 31, 1)], &[0, 2]),
        (&[row(8, 2, 0)], &[0]),
        (&[row(1, 3, 0), row(2, 4, 0)], &[]),
        (
            &[
                row(5, 0, 0),
                row(6, 1, 0),
                row(7, 2, 0),
                row(8, 3, 0),
                row(9, 4, 1),
            ],
            &[1, 3, 4],
        ),
        (&[row(3, 1, 0), row(9, 5, 1), row(39, 31, 1)], &[0, 2]),
    ];
    assert_eq!(calls[4].0.len(), MAX_ROWS as usize);
    assert_eq!(calls[4].1.len(), MAX_OUTS as usize);
    for (rows, outs) in calls {
        run_and_compare(driver, &mut model, rows, outs);
    }
}

fn step(manifest: &mut Manifest, index: usize) -> &mut gembin_bundle::gpu::GpuStep {
    match &mut manifest.plans[0].programs[0].steps[index].work {
        Work::Gpu(step) => step,
        Work::Cpu(_) | Work::Npu(_) => panic!("a plan of dispatches"),
    }
}

/// Why a manifest is not loaded.
#[track_caller]
fn refusal(manifest: Manifest) -> String {
    match load(manifest, &options()) {
        Ok(driver) => panic!("loaded: {}", driver.describe()),
        Err(error) => error.to_string(),
    }
}

#[test]
fn calls_compute_what_the_plan_says() {
    let mut driver = load(manifest(), &options()).unwrap();
    assert!(
        driver.describe().ends_with("weights imported")
            || driver.describe().ends_with("weights copied")
            || driver.describe().ends_with("weights uploaded"),
        "{}",
        driver.describe()
    );
    exercise(&mut driver);
}

#[test]
fn weights_arrive_by_copy_and_by_upload_too() {
    let copied = VulkanOptions {
        no_import: true,
        ..options()
    };
    let staged = VulkanOptions {
        stage_weights: true,
        ..copied.clone()
    };
    exercise(&mut load(manifest(), &copied).unwrap());
    let mut driver = load(manifest(), &staged).unwrap();
    assert!(driver.describe().ends_with("weights uploaded"));
    exercise(&mut driver);
}

#[test]
fn a_call_split_into_many_submits_computes_the_same() {
    let split = VulkanOptions {
        submit_multiply_adds: Some(1),
        ..options()
    };
    let mut driver = load(manifest(), &split).unwrap();
    exercise(&mut driver);
    let key = super::recording::Key {
        program: 0,
        steps: 0..6,
        seq: 1,
        outs: 1,
    };
    let recording = driver.recordings.find(&key).expect("recorded");
    let parts = driver.recordings.parts(recording);
    assert!(parts.len() > 2, "{} parts", parts.len());
}

#[test]
fn recordings_are_replayed_and_old_ones_make_way() {
    let mut driver = load(manifest(), &options()).unwrap();
    let mut model = Model::default();
    let rows = [
        row(1, 0, 0),
        row(2, 1, 0),
        row(3, 2, 0),
        row(4, 3, 0),
        row(5, 4, 0),
    ];
    let outs = [0, 1, 2];
    // More kinds of calls than are kept, the first kind again and again.
    for _ in 0..3 {
        for seq in 1..=5usize {
            for out in 0..=seq.min(3) {
                run_and_compare(&mut driver, &mut model, &rows[..seq], &outs[..out]);
                run_and_compare(&mut driver, &mut model, &rows[..1], &outs[..1]);
            }
        }
    }
}

#[test]
fn parts_of_a_program_run_alone_and_arenas_cross_both_ways() {
    let mut driver = load(manifest(), &options()).unwrap();
    let rows = [row(7, 3, 1), row(4, 9, 0)];
    let call = Call {
        rows: &rows,
        outs: &[],
    };
    driver.submit(0, 0..1, call).unwrap();
    driver.fetch(X, u64::from(2 * COLS) * 4).unwrap();
    let arena = std::sync::Arc::clone(&driver.context.arena);
    // SAFETY: the driver is idle.
    let x = unsafe { arena.f32s(X, 2 * COLS as usize) }.to_vec();
    assert_eq!(x[..4], [14.0, 6.0, 2.0, 0.0]);
    assert_eq!(x[16..20], [8.0, 18.0, 0.0, 0.0]);

    // A value of the host's becomes the kernel's: two steps copy it, and weights are added on the way.
    // SAFETY: the place is the value `x`, and the driver is idle.
    unsafe { arena.base().add(X as usize).cast::<f32>().write(1000.0) };
    driver.store(X, 4).unwrap();
    driver.submit(0, 1..3, call).unwrap();
    driver.wait().unwrap();
    driver.fetch(X, u64::from(COLS) * 4).unwrap();
    let sum: f32 = [0, 2]
        .into_iter()
        .map(|w| (0..TABLE_ROWS).map(|r| weight_at(w, r, 0)).sum::<f32>())
        .sum();
    // SAFETY: the driver is idle.
    let x = unsafe { arena.f32s(X, COLS as usize) };
    assert_eq!(x[0], 1000.0 + sum);

    // A cache lies elsewhere on the GPU, and crosses all the same.
    driver.submit(0, 3..4, call).unwrap();
    let half = u64::from(SLOTS * CONTEXT * COLS) * 4;
    let keys = VALUE_BYTES + 2 * half;
    driver.fetch(keys, half).unwrap();
    // SAFETY: the driver is idle.
    let keys = unsafe { arena.f32s(keys, (half / 4) as usize) };
    assert_eq!(keys[((CONTEXT + 3) * COLS) as usize], 1000.0 + sum);
    assert_eq!(
        keys.iter().filter(|&&v| v != 0.0).count(),
        2 * COLS as usize
    );

    let error = driver.fetch(VALUE_BYTES + 4 * half, 4).unwrap_err();
    assert!(
        error.to_string().contains("not whole words of the arena"),
        "{error}"
    );
}

#[test]
fn times_are_measured_step_by_step_when_asked() {
    let mut driver = load(manifest(), &options()).unwrap();
    exercise(&mut driver);
    assert!(driver.step_ns(0).is_empty());
    driver.set_profiling(true).unwrap();
    let (rows, outs) = ([row(1, 1, 1), row(2, 2, 1)], [0]);
    for _ in 0..3 {
        let call = Call {
            rows: &rows,
            outs: &outs,
        };
        driver.submit(0, 0..6, call).unwrap();
        driver.wait().unwrap();
    }
    let times = driver.step_ns(0).to_vec();
    assert_eq!(times.len(), 6);
    assert!(times.iter().all(|&ns| ns > 0.0 && ns < 1e10), "{times:?}");
    driver.set_profiling(false).unwrap();
    assert!(driver.step_ns(0).is_empty());
}

#[test]
fn a_call_beyond_the_program_is_refused() {
    let mut driver = load(manifest(), &options()).unwrap();
    let rows = [row(40, 0, 0)];
    let error = driver
        .submit(
            0,
            0..6,
            Call {
                rows: &rows,
                outs: &[],
            },
        )
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "vulkan failed in rows: row 0 (token 40, position 0, slot 0) exceeds the limits (40, 32, 2)"
    );
    // Nothing is broken by it.
    exercise(&mut driver);
}

#[test]
fn compiled_pipelines_are_kept_and_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let kept = VulkanOptions {
        cache: CacheFolder::At(dir.path().to_owned()),
        ..options()
    };
    exercise(&mut load(manifest(), &kept).unwrap());
    let files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().flatten().collect();
    assert_eq!(files.len(), 1);
    let written = std::fs::read(files[0].path()).unwrap();
    exercise(&mut load(manifest(), &kept).unwrap());
    assert_eq!(std::fs::read(files[0].path()).unwrap(), written);
    // What is damaged is as good as nothing, and replaced.
    std::fs::write(files[0].path(), b"GEMPIPE\x01 and rubbish").unwrap();
    exercise(&mut load(manifest(), &kept).unwrap());
    assert!(!super::pipeline_cache::read(&files[0].path()).is_empty());
}

#[test]
fn what_the_gpu_lacks_is_told_at_load() {
    let mut hungry = manifest();
    hungry.kernels[1].variants[0].needs = Needs {
        matrix: Some(gembin_bundle::gpu::MatrixShape::F16x16),
        ..Needs::default()
    };
    let text = refusal(hungry);
    assert!(
        text.contains("cannot run kernel `add`: portable needs f16 16x16x16 matrices"),
        "{text}"
    );

    let mut large = manifest();
    large.kernels[1].variants[0].workgroup_bytes = 1 << 20;
    let text = refusal(large);
    assert!(
        text.contains("portable needs 1048576 bytes of workgroup memory"),
        "{text}"
    );

    let mut many = manifest();
    step(&mut many, 1).work[1] = Extent::Fixed(u32::MAX);
    let text = refusal(many);
    assert!(
        text.contains("step \"add\" of \"prefill\" cannot run on"),
        "{text}"
    );
    assert!(text.contains("workgroups"), "{text}");
}

#[test]
fn a_binding_larger_than_the_gpu_takes_is_named() {
    let gpus = super::gpus(&options()).unwrap();
    let most = gpus[0].abilities.as_ref().unwrap().limits.storage_range;
    // A cache one row too large; its memory is only reserved.
    let mut wide = manifest();
    let capacity = most / u64::from(SLOTS * COLS * 4) + 1;
    let half = capacity * u64::from(SLOTS * COLS * 4);
    if half > 1 << 30 {
        // Such a device binds more than a test should allocate.
        return;
    }
    let cache = &mut wide.arena.caches[1];
    cache.capacity = capacity as u32;
    cache.bytes = 2 * half;
    wide.arena.bytes = cache.offset + cache.bytes;
    wide.arena.cache_bytes = wide.arena.bytes - VALUE_BYTES;
    let text = refusal(wide);
    assert!(
        text.contains(&format!(
            "the keys of cache `l1` is bound with {half} bytes at once, and {most} are the most"
        )),
        "{text}"
    );
}

#[test]
fn plans_with_steps_of_the_processor_are_refused() {
    let mut mixed = manifest();
    mixed.plans[0].programs[0].steps[5].work = Work::Cpu(gembin_bundle::cpu::CpuStep::Gelu {
        x: mixed.plans[0].programs[0].logits,
        out: mixed.plans[0].programs[0].logits,
    });
    let text = refusal(mixed);
    assert!(text.contains("step \"best\" is the processor's"), "{text}");
}

#[test]
fn memory_that_is_not_there_is_an_error() {
    let mut vast = manifest();
    // Keys that no allocation can hold.
    let cache = &mut vast.arena.caches[1];
    cache.bytes = 1 << 50;
    vast.arena.bytes = cache.offset + cache.bytes;
    vast.arena.cache_bytes = vast.arena.bytes - VALUE_BYTES;
    let mut context = context(manifest());
    context.manifest = std::sync::Arc::new(vast);
    let error = VulkanDriver::load(&context, &Pick::Best, &options())
        .err()
        .expect("no such memory");
    assert!(error.to_string().contains("arena of"), "{error}");
}

#[test]
fn a_gpu_that_is_not_there_is_an_error() {
    let error = VulkanDriver::load(
        &context(manifest()),
        &Pick::Named("no such card".into()),
        &options(),
    )
    .err()
    .expect("no such GPU");
    assert!(
        error
            .to_string()
            .starts_with("vulkan: no GPU \"no such card\"; this machine has vulkan:0 ("),
        "{error}"
    );
}

#[test]
fn devices_are_listed_with_their_abilities() {
    let gpus = super::gpus(&VulkanOptions {
        validation: Validation::Off,
        ..VulkanOptions::default()
    })
    .unwrap();
    assert!(!gpus.is_empty());
    for gpu in gpus {
        let about = gpu.about().unwrap();
        assert!(
            about.starts_with(&gpu.name) && about.contains("wave "),
            "{about}"
        );
    }
}
#[test]
fn a_missing_barrier_is_found_by_the_validation_layer() {
    let mut racing = manifest();
    step(&mut racing, 1).barrier = false;
    let mut driver = load(racing, &options()).unwrap();
    let rows = [row(1, 0, 0)];
    let call = Call {
        rows: &rows,
        outs: &[0],
    };
    let error = driver
        .submit(0, 0..6, call)
        .and_then(|()| driver.wait())
        .expect_err("a hazard");
    assert!(error.to_string().contains("validation: "), "{error}");
    assert!(error.to_string().contains("HAZARD"), "{error}");
}

#[test]
fn the_validation_layer_is_heard() {
    let driver = load(manifest(), &options()).unwrap();
    let create = ash::vk::BufferCreateInfo::default()
        .size(0)
        .usage(ash::vk::BufferUsageFlags::STORAGE_BUFFER);
    // SAFETY: an empty buffer is against the rules, and harmless where the layer is there to say so.
    let buffer = unsafe { driver.device.raw.create_buffer(&create, None) };
    let complaint = driver.device.instance.complaints().expect("a complaint");
    assert!(
        complaint.contains("VUID-VkBufferCreateInfo-size-00912"),
        "{complaint}"
    );
    if let Ok(buffer) = buffer {
        // SAFETY: it was just made and never used.
        unsafe { driver.device.raw.destroy_buffer(buffer, None) };
    }
}
