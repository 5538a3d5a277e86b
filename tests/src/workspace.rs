//! The workspace as cargo sees it: packages, where they lie, what they depend on, under which licence.
//!
//! A thin view of `cargo metadata` for the host's platform; the rules over it are in `tests/tests/`.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::OnceLock;

/// One package of the resolved graph.
#[derive(Debug)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The folder of its manifest relative to the repository root, for members of the workspace.
    pub folder: Option<String>,
    /// Its licence expression, where it declares one.
    pub license: Option<String>,
    /// Where it was taken from; `None` for a folder on disk.
    pub source: Option<String>,
    /// Ids of what it depends on, in any way: to build, to run, to test.
    pub depends_on: BTreeSet<String>,
    /// Ids of what is linked into it or expanded in it: `depends_on` without test and build-script dependencies.
    pub links: BTreeSet<String>,
    /// Names of its declared dependencies whose version requirement is `*`, folders on disk aside.
    pub wildcards: Vec<String>,
}

/// The packages of the workspace and all their dependencies on this platform, by cargo's package id.
pub fn packages() -> &'static BTreeMap<String, Package> {
    static PACKAGES: OnceLock<BTreeMap<String, Package>> = OnceLock::new();
    PACKAGES.get_or_init(read)
}

/// The members of the workspace: their folder and the package.
pub fn members() -> impl Iterator<Item = (&'static str, &'static Package)> {
    let all = packages().values();
    all.filter_map(|package| Some((package.folder.as_deref()?, package)))
}

/// The package `name` of the workspace.
pub fn member(name: &str) -> &'static Package {
    let found = members().find(|(_, package)| package.name == name);
    found.unwrap_or_else(|| panic!("no package `{name}`")).1
}

/// Everything that is linked into `package`, directly or not.
pub fn linked_into(package: &Package) -> Vec<&'static Package> {
    let mut seen = BTreeSet::new();
    let mut todo: Vec<_> = package.links.iter().collect();
    while let Some(id) = todo.pop() {
        if seen.insert(id) {
            todo.extend(&packages()[id].links);
        }
    }
    seen.into_iter().map(|id| &packages()[id]).collect()
}

fn read() -> BTreeMap<String, Package> {
    let output = crate::commands::cargo()
        .args(["metadata", "--format-version=1", "--filter-platform"])
        .arg(host_triple())
        .output()
        .unwrap_or_else(|error| panic!("cannot start cargo: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo metadata failed: {stderr}");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");

    let mut links = BTreeMap::new();
    let mut depends_on = BTreeMap::new();
    for node in array(&metadata["resolve"]["nodes"]) {
        let (mut linked, mut all) = (BTreeSet::new(), BTreeSet::new());
        for dependency in array(&node["deps"]) {
            let id = string(&dependency["pkg"]);
            // A `null` kind is an ordinary dependency; the others are "dev" and "build".
            if array(&dependency["dep_kinds"])
                .iter()
                .any(|k| k["kind"].is_null())
            {
                linked.insert(id.clone());
            }
            all.insert(id);
        }
        links.insert(string(&node["id"]), linked);
        depends_on.insert(string(&node["id"]), all);
    }

    let root = format!("{}/", string(&metadata["workspace_root"]));
    let members: BTreeSet<String> = array(&metadata["workspace_members"])
        .iter()
        .map(string)
        .collect();
    let mut packages = BTreeMap::new();
    for package in array(&metadata["packages"]) {
        let id = string(&package["id"]);
        // Packages of other platforms are listed but not resolved.
        let (Some(links), Some(depends_on)) = (links.remove(&id), depends_on.remove(&id)) else {
            continue;
        };
        let folder = members.contains(&id).then(|| {
            let manifest = string(&package["manifest_path"]);
            let relative = manifest
                .strip_prefix(&root)
                .expect("members lie below the root");
            let folder = relative.strip_suffix("/Cargo.toml");
            folder.unwrap_or_default().to_owned()
        });
        let wildcards = array(&package["dependencies"])
            .iter()
            .filter(|dependency| dependency["req"] == "*" && dependency["path"].is_null())
            .map(|dependency| string(&dependency["name"]))
            .collect();
        let package = Package {
            name: string(&package["name"]),
            version: string(&package["version"]),
            folder,
            license: package["license"].as_str().map(str::to_owned),
            source: package["source"].as_str().map(str::to_owned),
            depends_on,
            links,
            wildcards,
        };
        packages.insert(id, package);
    }
    packages
}

fn host_triple() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .arg("-vV")
        .output()
        .unwrap_or_else(|error| panic!("cannot start rustc: {error}"));
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.expect("rustc names its host").to_owned()
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn string(value: &Value) -> String {
    let text = value.as_str();
    text.unwrap_or_else(|| panic!("cargo metadata: {value} is not a string"))
        .to_owned()
}
