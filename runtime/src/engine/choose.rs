//! Which plan and which program: pure choices over the manifest.

use crate::engine::DeviceChoice;
use crate::error::Error;
use gembin_bundle::manifest::{Device, Phase, Plan, Program};

/// A device that a plan wants and this machine lacks, with the reason.
pub(super) type Missing = (Device, String);

/// Index of the plan to run: the first that is allowed by `choice` and whose devices are all there. With `strict` the
/// first allowed plan is taken or nothing. Devices found missing on the way are added to `lacking`, and those that are
/// in it are not asked about again.
pub(super) fn plan(
    plans: &[Plan],
    choice: &DeviceChoice,
    strict: bool,
    lacking: &mut Vec<Missing>,
    mut missing: impl FnMut(Device) -> Option<String>,
) -> Result<usize, Error> {
    let mut allowed = false;
    for (index, plan) in plans.iter().enumerate() {
        let fits = match choice {
            DeviceChoice::Auto => true,
            DeviceChoice::Only { device, .. } => plan.devices.iter().all(|d| d == device),
        };
        if !fits {
            continue;
        }
        allowed = true;
        let mut usable = true;
        for &device in &plan.devices {
            if lacking.iter().any(|(known, _)| *known == device) {
                usable = false;
            } else if let Some(reason) = missing(device) {
                usable = false;
                lacking.push((device, reason));
            }
        }
        if usable {
            return Ok(index);
        }
        if strict {
            break;
        }
    }
    if !allowed {
        return Err(Error::NoPlanForDevice {
            device: choice.to_string(),
            plans: plans
                .iter()
                .map(|plan| plan.name.as_str())
                .collect::<Vec<_>>()
                .join(", "),
        });
    }
    Err(Error::DevicesMissing {
        reasons: reasons(lacking),
    })
}

/// What to tell of a plan that is taken since better ones lack devices.
pub(super) fn notice(lacking: &[Missing], taken: &Plan) -> Option<String> {
    (!lacking.is_empty()).then(|| {
        let devices: Vec<&str> = taken.devices.iter().map(|d| d.name()).collect();
        format!("running on {}; {}", devices.join(", "), reasons(lacking))
    })
}

fn reasons(lacking: &[Missing]) -> String {
    lacking
        .iter()
        .map(|(device, reason)| format!("{}: {reason}", device.name()))
        .collect::<Vec<_>>()
        .join("; ")
}

/// Index of the program for a call of up to `rows` rows in `phase`: the first that holds them all, else the largest.
/// `rows_of` says how many rows a program can take in this call; programs that take none are not considered.
pub(super) fn program(
    programs: &[Program],
    phase: Phase,
    rows: usize,
    rows_of: impl Fn(&Program) -> usize,
) -> Option<usize> {
    let mut largest: Option<(usize, usize)> = None;
    for (index, program) in programs.iter().enumerate() {
        if program.phase != phase {
            continue;
        }
        let takes = rows_of(program);
        if takes >= rows && takes > 0 {
            return Some(index);
        }
        if takes > largest.map_or(0, |(_, most)| most) {
            largest = Some((index, takes));
        }
    }
    largest.map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gembin_bundle::manifest::{Buffer, RowSet};

    fn programs(rows: &[(Phase, u32)]) -> Vec<Program> {
        rows.iter()
            .map(|&(phase, max_rows)| Program {
                name: String::new(),
                phase,
                max_rows,
                max_outs: max_rows.min(4),
                logits: Buffer {
                    offset: 0,
                    rows: RowSet::Out,
                    cols: 1,
                },
                candidates: None,
                steps: Vec::new(),
            })
            .collect()
    }

    /// As the compiler orders them: the GPU first.
    fn plans() -> Vec<Plan> {
        [("vulkan", Device::Vulkan), ("cpu", Device::Cpu)]
            .into_iter()
            .map(|(name, device)| Plan {
                name: name.into(),
                devices: vec![device],
                programs: Vec::new(),
            })
            .collect()
    }

    fn only(device: Device) -> DeviceChoice {
        DeviceChoice::Only { device, unit: None }
    }

    /// No GPU.
    fn no_gpu(device: Device) -> Option<String> {
        (device == Device::Vulkan).then(|| "gone fishing".into())
    }

    #[test]
    fn the_first_program_that_holds_the_rows_is_taken_else_the_largest() {
        let programs = programs(&[
            (Phase::Decode, 1),
            (Phase::Prefill, 16),
            (Phase::Prefill, 128),
            (Phase::Prefill, 64),
        ]);
        let pick = |rows| program(&programs, Phase::Prefill, rows, |p| p.max_rows as usize);
        assert_eq!(pick(1), Some(1));
        assert_eq!(pick(17), Some(2));
        assert_eq!(pick(1000), Some(2));
        assert_eq!(
            program(&programs, Phase::Decode, 3, |p| p.max_rows as usize),
            Some(0)
        );
    }

    #[test]
    fn no_program_of_the_phase_is_none() {
        let programs = programs(&[(Phase::Decode, 1)]);
        assert_eq!(program(&programs, Phase::Prefill, 1, |_| 1), None);
        assert_eq!(program(&programs, Phase::Decode, 1, |_| 0), None);
    }

    #[test]
    fn the_first_plan_whose_devices_are_there_is_taken() {
        let mut lacking = Vec::new();
        let auto = DeviceChoice::Auto;
        let taken = plan(&plans(), &auto, false, &mut lacking, |_| None).unwrap();
        assert_eq!((taken, lacking.len()), (0, 0));
        assert_eq!(notice(&lacking, &plans()[taken]), None);

        let taken = plan(&plans(), &auto, false, &mut lacking, no_gpu).unwrap();
        assert_eq!(taken, 1);
        assert_eq!(
            notice(&lacking, &plans()[taken]).unwrap(),
            "running on cpu; vulkan: gone fishing"
        );
        let cpu = only(Device::Cpu);
        assert_eq!(
            plan(&plans(), &cpu, false, &mut Vec::new(), |_| None).unwrap(),
            1
        );
    }

    #[test]
    fn a_device_that_refused_is_not_asked_again() {
        let mut lacking = vec![(Device::Vulkan, "too little memory".to_owned())];
        let taken = plan(&plans(), &DeviceChoice::Auto, false, &mut lacking, |_| None).unwrap();
        assert_eq!((taken, lacking.len()), (1, 1));
    }

    #[test]
    fn a_missing_device_is_named_with_its_reason() {
        for (choice, strict) in [
            (DeviceChoice::Auto, true),
            (only(Device::Vulkan), false),
            (only(Device::Vulkan), true),
        ] {
            let err = plan(&plans(), &choice, strict, &mut Vec::new(), no_gpu).unwrap_err();
            assert!(err.to_string().contains("vulkan: gone fishing"), "{err}");
        }
    }

    #[test]
    fn a_device_without_a_plan_is_told() {
        let err = plan(
            &plans()[1..],
            &only(Device::Vulkan),
            false,
            &mut Vec::new(),
            |_| None,
        )
        .unwrap_err();
        assert_eq!(
            err.to_string(),
            "the bundle has no plan that runs on vulkan alone; its plans: cpu"
        );
    }
}
