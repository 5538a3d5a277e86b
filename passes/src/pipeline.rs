//! The passes in order, as data.
//!
//! The order, and why: norms' offsets are folded first since only norms without one fuse; selections sink before
//! fusion so that the last norm meets the head; formats are chosen when the final matrices exist; layout follows
//! format; memory is planned when no op changes any more.

use crate::plan_memory::{PlanError, Scratch, plan_memory};
use crate::quantize::{QuantOptions, quantize};
use crate::{fold_norm_offsets, fuse, lay_out, sink_select};
use gembin_ir::Module;
use gembin_ir::verify::{Faults, verify};

/// A point of the pipeline: the module as imported, or as some pass leaves it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Stage {
    /// As imported.
    Import,
    /// Norm offsets folded.
    Fold,
    /// Selections moved up.
    Select,
    /// Fused.
    Fuse,
    /// Formats chosen.
    Quantize,
    /// Weights laid out.
    Layout,
    /// Memory planned: what targets lower.
    Plan,
}

impl Stage {
    /// In order.
    pub const ALL: [Stage; 7] = [
        Stage::Import,
        Stage::Fold,
        Stage::Select,
        Stage::Fuse,
        Stage::Quantize,
        Stage::Layout,
        Stage::Plan,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Import => "import",
            Stage::Fold => "fold",
            Stage::Select => "select",
            Stage::Fuse => "fuse",
            Stage::Quantize => "quantize",
            Stage::Layout => "layout",
            Stage::Plan => "plan",
        }
    }

    /// The stage of that name.
    pub fn from_name(name: &str) -> Option<Stage> {
        Stage::ALL.into_iter().find(|stage| stage.name() == name)
    }
}

/// A pass and the stage it leads to.
pub struct Pass {
    /// What it leads to; names it too.
    pub stage: Stage,
    /// The pass.
    pub run: fn(&mut Module, &QuantOptions, &dyn Scratch) -> Result<(), PlanError>,
}

/// All passes, in order.
pub const PASSES: [Pass; 6] = [
    Pass {
        stage: Stage::Fold,
        run: |module, _, _| {
            fold_norm_offsets(module);
            Ok(())
        },
    },
    Pass {
        stage: Stage::Select,
        run: |module, _, _| {
            sink_select(module);
            Ok(())
        },
    },
    Pass {
        stage: Stage::Fuse,
        run: |module, _, _| {
            fuse(module);
            Ok(())
        },
    },
    Pass {
        stage: Stage::Quantize,
        run: |module, options, _| {
            quantize(module, options);
            Ok(())
        },
    },
    Pass {
        stage: Stage::Layout,
        run: |module, _, _| {
            lay_out(module);
            Ok(())
        },
    },
    Pass {
        stage: Stage::Plan,
        run: |module, _, scratch| plan_memory(module, scratch).map(|_| ()),
    },
];

/// Why the pipeline stopped.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// The module was faulty before the first pass.
    #[error("the module to compile is invalid: {0}")]
    Input(Faults),
    /// A pass made a faulty module of a sound one.
    #[error("internal error: pass `{pass}` left an invalid module, please report it: {faults}")]
    Broken {
        /// The pass.
        pass: &'static str,
        /// What is wrong.
        faults: Faults,
    },
    /// Memory could not be planned.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// Runs all passes up to and with the one that leads to `stage`; the module is verified before the first and after
/// each.
///
/// # Errors
/// If the module is faulty at any point, or memory cannot be planned.
pub fn run_until(
    module: &mut Module,
    stage: Stage,
    options: &QuantOptions,
    scratch: &dyn Scratch,
) -> Result<(), PassError> {
    verify(module).map_err(PassError::Input)?;
    for pass in PASSES.iter().take_while(|pass| pass.stage <= stage) {
        (pass.run)(module, options, scratch)?;
        verify(module).map_err(|faults| PassError::Broken {
            pass: pass.stage.name(),
            faults,
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_but_import_has_one_pass_in_order() {
        let passes: Vec<Stage> = PASSES.iter().map(|pass| pass.stage).collect();
        assert_eq!(passes, &Stage::ALL[1..]);
        assert!(Stage::ALL.is_sorted());
    }

    #[test]
    fn stages_are_found_by_name() {
        for stage in Stage::ALL {
            assert_eq!(Stage::from_name(stage.name()), Some(stage));
        }
        assert_eq!(Stage::from_name("nothing"), None);
    }
}
