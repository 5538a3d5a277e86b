//! The driver on a machine in software: whole programs, every failure, and that nothing is left of anything.

use super::fake::{Ending, Setup};
use super::system::OnBus;
use super::testing::*;
use super::{CommandState, PowerMode, XdnaDriver, XdnaOptions, probe_on};
use crate::drivers::{Call, Driver, DriverError, Row};
use gembin_bundle::npu::Code;
use std::time::Duration;

fn run(
    driver: &mut XdnaDriver,
    program: usize,
    rows: &[Row],
    outs: &[u32],
) -> Result<(), DriverError> {
    let steps = driver.plan().programs[program].steps.len();
    driver.submit(program, 0..steps, Call { rows, outs })?;
    driver.wait()
}

/// The logits of each row asked for.
fn logits(bench: &Bench, driver: &mut XdnaDriver, outs: usize) -> Vec<Vec<f32>> {
    let count = outs * VOCAB as usize;
    driver.fetch(3 * 1024, 4 * count as u64).unwrap();
    let all = bench.values(3 * 1024, count);
    all.chunks_exact(VOCAB as usize)
        .map(<[f32]>::to_vec)
        .collect()
}

/// The likeliest token of each row asked for, which no fetch was made for.
fn likely(bench: &Bench, outs: usize) -> Vec<(u32, f32)> {
    bench
        .values(4 * 1024, 2 * outs)
        .chunks_exact(2)
        .map(|pair| (pair[0].to_bits(), pair[1]))
        .collect()
}

fn whole_program(setup: Setup, options: &XdnaOptions, arrival: &str) {
    let bench = Bench::new(setup);
    let mut driver = bench.load_with(options).unwrap();
    assert!(
        driver.describe().ends_with(arrival),
        "{}",
        driver.describe()
    );

    // Six tokens take the stream for eight rows, three the one for four.
    let first = [3, 1, 4, 1, 5, 9];
    run(&mut driver, PREFILL, &rows(0, 0, &first), &[2, 5]).unwrap();
    let both = logits(&bench, &mut driver, 2);
    assert_eq!(both, [expected(&first[..3]), expected(&first)]);
    run(&mut driver, PREFILL, &rows(1, 0, &[2, 7, 1]), &[2]).unwrap();
    assert_eq!(logits(&bench, &mut driver, 1), [expected(&[2, 7, 1])]);

    // One token of each of two sequences, on what the caches have.
    let both = [rows(0, 6, &[2]), rows(1, 3, &[8])].concat();
    run(&mut driver, DECODE, &both, &[0, 1]).unwrap();
    let wanted = [expected(&[3, 1, 4, 1, 5, 9, 2]), expected(&[2, 7, 1, 8])];
    for ((token, logit), wanted) in likely(&bench, 2).into_iter().zip(&wanted) {
        let best = wanted.iter().copied().fold(f32::MIN, f32::max);
        assert_eq!((wanted[token as usize], logit), (best, best));
    }
    assert_eq!(logits(&bench, &mut driver, 2), wanted);

    // Nothing asked for: the last step is left out.
    let before = bench.npu.commands_run();
    run(&mut driver, PREFILL, &rows(0, 7, &[1, 2]), &[]).unwrap();
    assert_eq!(bench.npu.commands_run() - before, 4);
    run(&mut driver, PREFILL, &rows(0, 9, &[6]), &[0]).unwrap();
    let all = [3, 1, 4, 1, 5, 9, 2, 1, 2, 6];
    assert_eq!(logits(&bench, &mut driver, 1), [expected(&all)]);
    drop(driver);
    bench.expect_clean();
}

#[test]
fn a_whole_program_computes_what_it_should() {
    whole_program(
        Setup::default(),
        &XdnaOptions::default(),
        "weights imported",
    );
}

#[test]
fn it_does_with_weights_copied_and_addresses_of_the_kernels() {
    let options = XdnaOptions {
        no_import: true,
        ..XdnaOptions::default()
    };
    whole_program(Setup::default(), &options, "weights copied");
    let old = Setup {
        imports: false,
        ..Setup::default()
    };
    whole_program(old, &XdnaOptions::default(), "weights copied");
    let addresses = Setup {
        process_addresses: false,
        ..Setup::default()
    };
    whole_program(addresses, &XdnaOptions::default(), "weights imported");
}

#[test]
fn signals_that_interrupt_a_wait_do_no_harm() {
    let bench = Bench::new(Setup::default());
    let mut driver = bench.load().unwrap();
    bench.npu.interrupt_waits(20);
    run(&mut driver, PREFILL, &rows(0, 0, &[3, 1]), &[1]).unwrap();
    assert_eq!(logits(&bench, &mut driver, 1), [expected(&[3, 1])]);
    drop(driver);
    bench.expect_clean();
}

#[test]
fn steps_can_be_run_one_by_one() {
    let bench = Bench::new(Setup::default());
    let mut driver = bench.load().unwrap();
    let rows = rows(0, 0, &[3, 1]);
    for step in 0..5 {
        let call = Call {
            rows: &rows,
            outs: &[1],
        };
        driver.submit(PREFILL, step..step + 1, call).unwrap();
        driver.wait().unwrap();
    }
    assert_eq!(logits(&bench, &mut driver, 1), [expected(&[3, 1])]);
    drop(driver);
    bench.expect_clean();
}

#[test]
fn the_processor_sees_the_arena_that_the_array_works_in() {
    let bench = Bench::new(Setup::default());
    let mut driver = bench.load().unwrap();
    let rows = rows(0, 0, &[3]);
    let call = Call {
        rows: &rows,
        outs: &[0],
    };
    driver.submit(PREFILL, 0..1, call).unwrap();
    driver.fetch(0, 64).unwrap();
    assert_eq!(bench.values(0, 2), [3.0, 3.5]);
    // What the processor writes is what the next step reads.
    // SAFETY: nothing is under way, and the arena is longer.
    unsafe { bench.context.arena.base().cast::<f32>().write(100.0) };
    driver.store(0, 64).unwrap();
    driver.submit(PREFILL, 1..2, call).unwrap();
    driver.fetch(1024, 64).unwrap();
    assert_eq!(bench.values(1024, 2), [100.0, 3.75]);
    drop(driver);
    // The arena is there without the driver.
    assert_eq!(bench.values(0, 2), [0.0, 0.0]);
    bench.expect_clean();
}

#[test]
fn a_fresh_arena_is_zeros_for_the_array_too() {
    let bench = Bench::new(Setup::default());
    let mut driver = bench.load().unwrap();
    let bytes = bench.context.manifest.arena.bytes;
    driver.fetch(0, bytes).unwrap();
    let values = bench.values(0, bytes as usize / 4);
    assert!(values.iter().all(|value| value.to_bits() == 0));
}

#[test]
fn a_call_that_exceeds_its_program_is_refused() {
    let bench = Bench::new(Setup::default());
    let mut driver = bench.load().unwrap();
    let many = rows(0, 0, &[1; 9]);
    let error = run(&mut driver, PREFILL, &many, &[0]).unwrap_err();
    assert!(error.to_string().contains("9 rows"), "{error}");
    let error = driver.fetch(0, 1 << 40).unwrap_err();
    assert!(
        error.to_string().contains("outside of the arena"),
        "{error}"
    );
    run(&mut driver, PREFILL, &many[..2], &[0]).unwrap();
    drop(driver);
    bench.expect_clean();
}

/// A machine on which nothing loads, and words of the reason.
#[track_caller]
fn refuse(setup: Setup, words: &[&str]) {
    let bench = Bench::new(setup);
    let reason = bench.refusal();
    for word in words {
        assert!(
            reason.contains(word),
            "expected: {word}\n     got: {reason}"
        );
    }
    assert!(
        reason.starts_with("npu: ") && !reason.contains('\n'),
        "{reason}"
    );
    bench.expect_clean();
}

#[test]
fn a_machine_without_an_npu_says_so() {
    let none = Setup {
        node: false,
        on_bus: None,
        ..Setup::default()
    };
    refuse(none.clone(), &["this machine has no AMD NPU"]);
    let foreign = Setup {
        foreign_node: true,
        ..none
    };
    refuse(foreign, &["this machine has no AMD NPU"]);
}

#[test]
fn an_npu_without_a_driver_or_firmware_is_named_with_the_remedy() {
    let bare = |driver: Option<&str>| Setup {
        node: false,
        on_bus: Some(OnBus {
            id: 0x1502,
            driver: driver.map(str::to_owned),
        }),
        ..Setup::default()
    };
    refuse(
        bare(None),
        &[
            "PCI 1022:1502",
            "Linux 6.14",
            "linux-firmware",
            "amdnpu/1502_00",
        ],
    );
    refuse(bare(Some("vfio-pci")), &["vfio-pci has it"]);
}

#[test]
fn another_vendors_accelerator_is_passed_over() {
    let bench = Bench::new(Setup {
        foreign_node: true,
        ..Setup::default()
    });
    assert_eq!(bench.load().unwrap().facts.node, "/dev/accel/accel1");
    bench.expect_clean();
}

#[test]
fn a_user_without_permission_is_told_the_group() {
    let setup = Setup {
        open_error: Some(libc::EACCES),
        ..Setup::default()
    };
    refuse(setup, &["cannot open /dev/accel/accel0", "group `render`"]);
    let setup = Setup {
        open_error: Some(libc::ENODEV),
        ..Setup::default()
    };
    refuse(setup, &["IOMMU"]);
}

#[test]
fn too_little_lockable_memory_is_told_with_the_remedy() {
    let setup = Setup {
        lockable_bytes: Some(8 << 20),
        ..Setup::default()
    };
    let system = super::fake::FakeNpu::new(setup.clone(), executor()).system();
    assert!(
        probe_on(&system)
            .unwrap_err()
            .contains("8192 KiB of memory may be locked")
    );
    refuse(
        setup,
        &["8192 KiB", "65536 are needed", "limits.d", "LimitMEMLOCK"],
    );
    let enough = Setup {
        lockable_bytes: Some(64 << 20),
        ..Setup::default()
    };
    let bench = Bench::new(enough);
    bench.load().unwrap();
    bench.expect_clean();
}

#[test]
fn too_little_memory_names_what_it_was_for() {
    let mib = |mib: u64, more: u64| Setup {
        memory_bytes: (mib << 20) + more,
        imports: false,
        ..Setup::default()
    };
    refuse(mib(1, 0), &["for instructions", "out of memory"]);
    refuse(mib(64, 0), &["for a copy of the weights", "out of memory"]);
    refuse(mib(64, 4096), &["for the arena", "out of memory"]);
}

#[test]
fn firmware_that_is_too_old_or_silent_is_refused() {
    let firmware = |firmware| Setup {
        firmware,
        ..Setup::default()
    };
    refuse(
        firmware(Some([1, 3, 0, 12])),
        &["firmware 1.3, 1.5 is needed", "linux-firmware"],
    );
    refuse(
        firmware(None),
        &["firmware's version", "update linux-firmware"],
    );
    let dead = Setup {
        columns: 0,
        ..Setup::default()
    };
    refuse(dead, &["0 x 4 compute tiles", "dmesg"]);
}

#[test]
fn a_design_of_another_generation_is_refused() {
    let bench = Bench::new(Setup {
        on_bus: Some(OnBus {
            id: 0x17f0,
            driver: Some("amdxdna".into()),
        }),
        columns: 8,
        ..Setup::default()
    });
    let reason = bench.refusal();
    assert!(
        reason.contains("\"gemm\" is for 4 columns of XDNA1"),
        "{reason}"
    );
    bench.expect_clean();
}

#[test]
fn a_generation_is_known_by_its_number_or_else_by_its_columns() {
    let of = |on_bus: Option<u16>, columns: u16| {
        let on_bus = on_bus.map(|id| OnBus {
            id,
            driver: Some("amdxdna".into()),
        });
        let setup = Setup {
            on_bus,
            columns,
            ..Setup::default()
        };
        probe_on(&super::fake::FakeNpu::new(setup, executor()).system())
    };
    for (id, columns, words) in [
        (Some(0x1502), 5, "XDNA1 (npu1), 4 columns"),
        (Some(0x17f0), 8, "XDNA2 (npu2), 8 columns"),
        (None, 5, "XDNA1 (npu1), 4 columns"),
        (None, 8, "XDNA2 (npu2), 8 columns"),
    ] {
        let about = of(id, columns).unwrap();
        assert!(about.starts_with(words), "{about}");
    }
    let reason = of(Some(0x17f2), 8).unwrap_err();
    assert!(
        reason.contains("not known here (PCI 1022:17f2)"),
        "{reason}"
    );
}

#[test]
fn designs_that_were_not_built_make_a_plan_unusable() {
    let bench = Bench::with(Setup::default(), |m| {
        for design in &mut m.npu.designs {
            design.code = Code::NotBuilt {
                mlir: "module {}".into(),
            };
        }
        for stream in &mut m.npu.streams {
            stream.words.clear();
        }
    });
    let reason = bench.refusal();
    assert!(
        reason.starts_with("npu: npu: not built") && reason.contains("aiecc"),
        "{reason}"
    );
    bench.expect_clean();
}

#[test]
fn contexts_that_others_have_are_told() {
    let setup = Setup {
        contexts: 1,
        ..Setup::default()
    };
    refuse(
        setup,
        &["1 columns", "\"head\"", "other programs have them"],
    );
    let setup = Setup {
        timelines: false,
        ..Setup::default()
    };
    refuse(setup, &["signals no ends of commands"]);
}

#[test]
fn the_power_mode_is_set_by_root_alone_and_only_if_it_differs() {
    let wish = |mode| XdnaOptions {
        power_mode: Some(mode),
        ..XdnaOptions::default()
    };
    let bench = Bench::new(Setup::default());
    let error = bench
        .load_with(&wish(PowerMode::Turbo))
        .err()
        .expect("a refusal");
    let text = error.to_string();
    assert!(
        text.contains("only root") && text.contains("--npu-power-mode"),
        "{text}"
    );
    bench.load_with(&wish(PowerMode::Default)).unwrap();
    bench.expect_clean();

    let bench = Bench::new(Setup {
        root: true,
        ..Setup::default()
    });
    let driver = bench.load_with(&wish(PowerMode::Performance)).unwrap();
    assert!(driver.describe().contains("power mode performance"));
    assert_eq!(bench.npu.power_mode(), 3);
    drop(driver);
    bench.expect_clean();
}

/// Every call to the system fails once, with every kind of error: an error each time, and nothing left.
#[test]
fn a_load_that_fails_anywhere_leaves_nothing() {
    for error in [libc::ENOMEM, libc::EINVAL, libc::ENODEV, libc::ENOSPC] {
        let mut tolerated = Vec::new();
        let mut count = 0;
        loop {
            let bench = Bench::new(Setup::default());
            bench.npu.fail_call(count, error);
            let loaded = bench.load();
            if bench.npu.failure_is_due() {
                assert!(loaded.is_ok());
                drop(loaded);
                break;
            }
            match loaded {
                Ok(driver) => tolerated.push(driver.describe()),
                Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
            }
            bench.expect_clean();
            count += 1;
        }
        assert!(count > 30, "{count} calls");
        // Clock and power mode are for people; what cannot be imported, by three calls, is copied.
        assert_eq!(tolerated.len(), 5, "{tolerated:?}");
        assert_eq!(
            tolerated.iter().filter(|t| t.ends_with("copied")).count(),
            3
        );
    }
}

/// The same while a program runs.
#[test]
fn a_call_that_fails_anywhere_ends_and_leaves_nothing() {
    for error in [libc::ENOMEM, libc::EIO, libc::ENODEV] {
        let mut count = 0;
        loop {
            let bench = Bench::new(Setup::default());
            let mut driver = bench.load().unwrap();
            bench.npu.fail_call(count, error);
            let result = run(&mut driver, PREFILL, &rows(0, 0, &[3, 1, 4]), &[2]);
            if bench.npu.failure_is_due() {
                result.unwrap();
                break;
            }
            let error = result.unwrap_err();
            assert!(matches!(error, DriverError::Failed { .. }), "{error}");
            drop(driver);
            bench.expect_clean();
            count += 1;
        }
        assert!(count > 5, "{count} calls");
    }
}

/// What a command's end leads to: the step it is told of, and words of the error.
#[track_caller]
fn end(ending: Ending, words: &str) {
    for (command, label) in ["fill", "add", "store", "sum", "head"].iter().enumerate() {
        let bench = Bench::new(Setup::default());
        let mut driver = bench.load().unwrap();
        bench.npu.end_command(command, ending);
        let error = run(&mut driver, PREFILL, &rows(0, 0, &[3, 1]), &[1]).unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with(&format!("npu failed in {label}: ")),
            "{text}"
        );
        assert!(text.contains(words), "expected: {words}\n     got: {text}");
        // The contexts are ended at once, and every later call says why.
        if ending != Ending::Vanish {
            assert_eq!(bench.npu.living().contexts, 0);
        }
        let again = run(&mut driver, PREFILL, &rows(0, 0, &[3]), &[0]).unwrap_err();
        assert!(again.to_string().contains(words), "{again}");
        assert!(driver.fetch(0, 64).is_err());
        drop(driver);
        bench.expect_clean();
    }
}

#[test]
fn a_command_that_fails_is_one_clear_error() {
    end(Ending::In(CommandState::Error), "firmware reports an error");
    end(Ending::In(CommandState::Abort), "gave the command up");
    end(Ending::In(CommandState::Timeout), "was reset");
    end(Ending::In(CommandState::NoResponse), "does not answer");
    end(Ending::In(CommandState::Unknown(12)), "state 12");
}

#[test]
fn a_command_that_never_ends_is_waited_for_until_the_deadline() {
    end(Ending::Hang, "did not finish within 10 s");
    let bench = Bench::new(Setup::default());
    let options = XdnaOptions {
        timeout: Duration::from_millis(250),
        ..XdnaOptions::default()
    };
    let mut driver = bench.load_with(&options).unwrap();
    bench.npu.end_command(1, Ending::Hang);
    let before = bench.npu.system().now_ns();
    run(&mut driver, PREFILL, &rows(0, 0, &[3]), &[0]).unwrap_err();
    let waited = bench.npu.system().now_ns() - before;
    assert!((250_000_000..300_000_000).contains(&waited), "{waited} ns");
    drop(driver);
    bench.expect_clean();
}

#[test]
fn a_reset_of_the_array_is_told() {
    end(Ending::Reset, "was reset");
}

#[test]
fn a_device_that_goes_away_is_told() {
    end(Ending::Vanish, "the NPU is gone");
    let bench = Bench::new(Setup::default());
    let mut driver = bench.load().unwrap();
    bench.npu.vanish();
    let error = run(&mut driver, PREFILL, &rows(0, 0, &[3]), &[0]).unwrap_err();
    assert!(error.to_string().contains("the NPU is gone"), "{error}");
    drop(driver);
    bench.expect_clean();
}

#[test]
fn a_driver_dropped_with_work_under_way_ends_it() {
    let bench = Bench::new(Setup::default());
    let mut driver = bench.load().unwrap();
    let rows = rows(0, 0, &[3, 1]);
    let call = Call {
        rows: &rows,
        outs: &[1],
    };
    driver.submit(PREFILL, 0..5, call).unwrap();
    drop(driver);
    bench.expect_clean();
}

#[test]
fn what_an_npu_is_is_told() {
    let npu = super::fake::FakeNpu::new(Setup::default(), executor());
    assert_eq!(
        probe_on(&npu.system()).unwrap(),
        "XDNA1 (npu1), 4 columns x 4 rows at 1600 MHz, power mode default, firmware 1.5.5.391, amdxdna 0.6"
    );
    assert_eq!(npu.living(), super::fake::Living::default());
}
