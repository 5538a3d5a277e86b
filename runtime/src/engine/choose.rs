//! Which plan and which program: pure choices over the manifest.

use crate::engine::DeviceChoice;
use crate::error::Error;
use gembin_bundle::manifest::{Device, Phase, Plan, Program};

/// A device that a plan wants and this machine lacks, with the reason.
pub(super) type Missing = (Device, String);

/// Index of the plan to run: the first that is allowed by `choice` and whose devices are all there. With `strict` the
/// first allowed plan is taken or nothing.
pub(super) fn plan(
    plans: &[Plan],
    choice: DeviceChoice,
    strict: bool,
    mut missing: impl FnMut(Device) -> Option<String>,
) -> Result<usize, Error> {
    let mut lacking: Vec<Missing> = Vec::new();
    let mut allowed = false;
    for (index, plan) in plans.iter().enumerate() {
        let fits = match choice {
            DeviceChoice::Auto => true,
            DeviceChoice::Only(device) => plan.devices.iter().all(|&d| d == device),
        };
        if !fits {
            continue;
        }
        allowed = true;
        let mut usable = true;
        for &device in &plan.devices {
            if let Some(reason) = missing(device) {
                usable = false;
                if lacking.iter().all(|(known, _)| *known != device) {
                    lacking.push((device, reason));
                }
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
        reasons: lacking
            .iter()
            .map(|(device, reason)| format!("{}: {reason}", device.name()))
            .collect::<Vec<_>>()
            .join("; "),
    })
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

    fn plans() -> Vec<Plan> {
        vec![Plan {
            name: "cpu".into(),
            devices: vec![Device::Cpu],
            programs: Vec::new(),
        }]
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
    fn a_plan_is_taken_where_its_devices_are() {
        assert_eq!(
            plan(&plans(), DeviceChoice::Auto, false, |_| None).unwrap(),
            0
        );
    }

    #[test]
    fn a_missing_device_is_named_with_its_reason() {
        let err = plan(&plans(), DeviceChoice::Auto, true, |_| {
            Some("gone fishing".into())
        })
        .unwrap_err();
        assert!(err.to_string().contains("cpu: gone fishing"), "{err}");
    }
}
