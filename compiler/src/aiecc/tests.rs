//! The vendor's compiler, played by shell scripts.

use super::*;
use std::sync::{Mutex, MutexGuard, PoisonError};

const TEXT: &str = "\"builtin.module\"() ({\n  \"aie.objectfifo\"(%0, %4) {sym_name = \"weights_0\"} : () -> ()\n}) : () -> ()\n";
/// Writes what it is asked for: the names come from its own options, the sequence's into the braces.
const GOOD: &str = r#"
for option; do case $option in
    --pdi-name=*) printf pdi > "${option#*=}" ;;
    --npu-insts-name=*) name=${option#*=}; for s in one two; do printf "$s" > "${name%\{1\}*}$s${name#*\{1\}}"; done ;;
esac; done
echo run >> "$(dirname "$0")/runs""#;

/// One at a time: a program being written must not be open in a process that another test is starting.
static TURN: Mutex<()> = Mutex::new(());

struct Played {
    folder: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Played {
    /// A program that says a version and then does `body`.
    fn new(version: &str, body: &str) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("aiecc");
        let script = format!(
            "#!/bin/sh\nif [ \"$1\" = --version ]; then echo '{version}'; exit 0; fi\necho \"$@\" >> \"$(dirname \"$0\")/seen\"\n{body}\n"
        );
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self {
            folder,
            _turn: turn,
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("aiecc")
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    fn aiecc(&self) -> Result<Aiecc, AieccError> {
        Aiecc::at(self.path(), self.cache())
    }

    fn build(&self) -> Result<Built, AieccError> {
        self.build_within(Duration::from_secs(60))
    }

    fn build_within(&self, timeout: Duration) -> Result<Built, AieccError> {
        let sequences = ["one".to_owned(), "two".to_owned()];
        let source = Source {
            name: "products",
            text: TEXT,
            sequences: &sequences,
        };
        self.aiecc()?
            .with_timeout(timeout)
            .build(source, &AtomicBool::new(false))
    }

    fn lines(&self, file: &str) -> Vec<String> {
        fs::read_to_string(self.folder.path().join(file))
            .unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    /// What a failed build leaves in the cache.
    fn left(&self) -> usize {
        fs::read_dir(self.cache()).map_or(0, Iterator::count)
    }
}

#[test]
fn a_design_is_built_once() {
    let played = Played::new("aiecc 1.4.2 (mlir-aie)", GOOD);
    let built = played.build().unwrap();
    assert_eq!(built.pdi, b"pdi");
    assert_eq!(built.instructions, [b"one", b"two"]);
    assert_eq!(played.build().unwrap(), built);
    assert_eq!(
        played.lines("runs").len(),
        1,
        "the second time is from the cache"
    );
    assert_eq!(played.left(), 1);
    let seen = &played.lines("seen")[0];
    assert!(seen.starts_with("--get-pdi --get-npu-insts "), "{seen}");
}

#[test]
fn older_versions_are_told_in_their_words() {
    let played = Played::new("aiecc.py version 1.1.0", GOOD);
    played.build().unwrap();
    let seen = &played.lines("seen")[0];
    assert!(
        seen.starts_with("--aie-generate-pdi --aie-generate-npu-insts "),
        "{seen}"
    );
}

#[test]
fn its_errors_name_the_op() {
    let played = Played::new(
        "1.4",
        "echo 'design.mlir:2:5: error: number of output DMA channel exceeded' >&2; exit 1",
    );
    let error = played.build().unwrap_err().to_string();
    assert!(
        error.ends_with(
            "refuses products: aie.objectfifo @weights_0 (line 2): number of output DMA channel exceeded"
        ),
        "{error}"
    );
    assert_eq!(played.left(), 0);
    drop(played);

    let played = Played::new("1.4", "echo 'Traceback'; echo 'no peano'; exit 3");
    let error = played.build().unwrap_err().to_string();
    assert!(
        error.ends_with("refuses products: exit status: 3: no peano"),
        "{error}"
    );
}

#[test]
fn what_is_missing_hangs_or_is_no_compiler_is_said() {
    let played = Played::new("1.4", "printf x > products.pdi");
    let error = played.build().unwrap_err().to_string();
    assert!(
        error.ends_with("wrote no products_one.insts for products"),
        "{error}"
    );
    assert_eq!(played.left(), 0);
    drop(played);

    let played = Played::new("1.4", "exec sleep 600");
    let error = played
        .build_within(Duration::from_millis(200))
        .unwrap_err()
        .to_string();
    assert!(
        error.ends_with("products was not done after 0 s"),
        "{error}"
    );
    assert_eq!(played.left(), 0);
    drop(played);

    let error = Played::new("hello", "").build().unwrap_err().to_string();
    assert!(
        error.contains("does not say its version (hello)"),
        "{error}"
    );

    let played = Played::new("1.4", GOOD);
    let sequences = ["one".to_owned()];
    let source = Source {
        name: "products",
        text: TEXT,
        sequences: &sequences,
    };
    let aiecc = played.aiecc().unwrap();
    fs::remove_file(played.path()).unwrap();
    assert!(matches!(
        aiecc.build(source, &AtomicBool::new(false)),
        Err(AieccError::Io { .. })
    ));
    let gone = Aiecc::find(Some(&played.path())).unwrap_err().to_string();
    assert!(gone.contains("is no program that can be run"), "{gone}");
}

#[test]
fn an_interrupt_ends_it() {
    let played = Played::new("1.4", "exec sleep 600");
    let source = Source {
        name: "products",
        text: TEXT,
        sequences: &[],
    };
    let error = played
        .aiecc()
        .unwrap()
        .build(source, &AtomicBool::new(true))
        .unwrap_err();
    assert!(matches!(error, AieccError::Cancelled), "{error}");
    assert_eq!(played.left(), 0);
}
