//! What third parties bring in, held to `deny.toml`: licences, refused crates, sources, open version requirements.
//!
//! The same rules as `cargo deny check licenses bans sources`, over the packages of this platform, with no tool to
//! install. `deny.toml` is the only place where the rules are written: a key in it that this test does not understand
//! is a failure, so that nothing there looks enforced and is not. Known vulnerabilities need a database from the
//! network and are not looked up here.

use gembin_tests::repository;
use gembin_tests::workspace::{Package, packages};
use spdx::{Expression, ParseMode};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use toml::{Table, Value};

struct Rules(Table);

impl Rules {
    fn read() -> Self {
        let text = fs::read_to_string(repository().join("deny.toml")).expect("deny.toml");
        Self(
            text.parse()
                .unwrap_or_else(|error| panic!("deny.toml: {error}")),
        )
    }

    fn get(&self, section: &str, key: &str) -> &Value {
        let found = self.0.get(section).and_then(|section| section.get(key));
        found.unwrap_or_else(|| panic!("deny.toml: [{section}] has no `{key}`"))
    }

    fn list(&self, section: &str, key: &str) -> Vec<&str> {
        let items = self.get(section, key).as_array();
        let items = items.unwrap_or_else(|| panic!("deny.toml: {section}.{key} is no list"));
        items.iter().filter_map(Value::as_str).collect()
    }

    /// Crates that are refused, each with the reason.
    fn refused(&self) -> Vec<(&str, &str)> {
        let entries = self.get("bans", "deny").as_array();
        let entries = entries.expect("deny.toml: bans.deny is a list");
        let complete = |entry: &'_ Value| entry.as_table().is_some_and(|table| table.len() == 2);
        entries
            .iter()
            .map(|entry| {
                let text = |key| entry.get(key).and_then(Value::as_str);
                match (text("crate"), text("reason")) {
                    (Some(name), Some(reason)) if complete(entry) => (name, reason),
                    _ => panic!("deny.toml: bans.deny: {entry:?} is not {{ crate, reason }}"),
                }
            })
            .collect()
    }
}

fn third_party() -> impl Iterator<Item = &'static Package> {
    packages()
        .values()
        .filter(|package| package.folder.is_none())
}

#[track_caller]
fn expect_none(rule: &str, breaches: &[String]) {
    assert!(breaches.is_empty(), "{rule}:\n  {}", breaches.join("\n  "));
}

/// Whether one may choose licences out of `expression` that are all in `allowed`.
fn may_be_used(expression: &str, allowed: &BTreeSet<&str>) -> Result<bool, String> {
    let parsed = Expression::parse_mode(expression, ParseMode::LAX);
    let parsed = parsed.map_err(|error| format!("`{expression}`: {}", error.reason))?;
    Ok(parsed.evaluate(|licence| allowed.contains(licence.to_string().as_str())))
}

#[test]
fn every_key_of_deny_toml_is_one_that_is_enforced() {
    let known = [
        ("graph", "targets"),
        ("licenses", "allow"),
        ("licenses", "clarify"),
        ("bans", "multiple-versions"),
        ("bans", "wildcards"),
        ("bans", "allow-wildcard-paths"),
        ("bans", "deny"),
        ("sources", "unknown-registry"),
        ("sources", "unknown-git"),
        ("sources", "allow-registry"),
        ("sources", "allow-git"),
    ];
    let rules = Rules::read();
    let mut breaches = Vec::new();
    for (section, table) in &rules.0 {
        for key in table.as_table().into_iter().flat_map(Table::keys) {
            if !known.contains(&(section, key)) {
                breaches.push(format!("{section}.{key}"));
            }
        }
    }
    expect_none("deny.toml has keys that no test enforces", &breaches);
    for (section, key, value) in [
        ("bans", "wildcards", "deny"),
        ("sources", "unknown-registry", "deny"),
        ("sources", "unknown-git", "deny"),
    ] {
        assert_eq!(
            rules.get(section, key).as_str(),
            Some(value),
            "deny.toml: {section}.{key}"
        );
    }
}

#[test]
fn every_licence_is_allowed() {
    let rules = Rules::read();
    let allowed: BTreeSet<_> = rules.list("licenses", "allow").into_iter().collect();
    // What we say of a version of a crate that declares none.
    let clarified: BTreeMap<&str, &str> = rules
        .get("licenses", "clarify")
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            Some((
                entry.get("crate")?.as_str()?,
                entry.get("expression")?.as_str()?,
            ))
        })
        .collect();
    let mut breaches = Vec::new();
    for package in packages().values() {
        let version = format!("{}@{}", package.name, package.version);
        let licence = match &package.license {
            Some(licence) => licence,
            None => clarified
                .get(version.as_str())
                .copied()
                .unwrap_or("none declared"),
        };
        match may_be_used(licence, &allowed) {
            Ok(true) => {}
            Ok(false) => breaches.push(format!("{} {}: {licence}", package.name, package.version)),
            Err(error) => breaches.push(format!("{} {}: {error}", package.name, package.version)),
        }
    }
    expect_none("a licence that deny.toml does not allow", &breaches);
}

#[test]
fn licence_expressions_are_judged_by_their_logic() {
    let allowed = BTreeSet::from(["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"]);
    let judge = |expression| may_be_used(expression, &allowed);
    for expression in [
        "MIT",
        "MIT/Apache-2.0",
        "GPL-3.0-only OR MIT",
        "Apache-2.0 WITH LLVM-exception",
    ] {
        assert_eq!(judge(expression), Ok(true), "{expression}");
    }
    for expression in [
        "GPL-3.0-only",
        "MIT AND MPL-2.0",
        "MIT AND (BSL-1.0 OR Zlib)",
    ] {
        assert_eq!(judge(expression), Ok(false), "{expression}");
    }
    assert!(judge("none declared").is_err());
}

#[test]
fn no_refused_crate_is_used() {
    let rules = Rules::read();
    let refused = rules.refused();
    let mut breaches = Vec::new();
    for package in third_party() {
        let entry = refused.iter().find(|(name, _)| *name == package.name);
        if let Some((name, reason)) = entry {
            breaches.push(format!("{name} {}: {reason}", package.version));
        }
    }
    expect_none(
        "a crate that deny.toml refuses (see `cargo tree -i <crate>`)",
        &breaches,
    );
}

#[test]
fn every_dependency_comes_from_an_allowed_source() {
    let rules = Rules::read();
    let registries = rules.list("sources", "allow-registry");
    let repositories = rules.list("sources", "allow-git");
    let is_allowed = |source: &str| {
        let registry = source
            .strip_prefix("registry+")
            .or(source.strip_prefix("sparse+"));
        let git = source
            .strip_prefix("git+")
            .and_then(|url| url.split(['?', '#']).next());
        registry.is_some_and(|url| registries.contains(&url))
            || git.is_some_and(|url| repositories.contains(&url))
    };
    let mut breaches = Vec::new();
    for package in third_party() {
        let source = package
            .source
            .as_deref()
            .unwrap_or("a folder outside of the workspace");
        if !is_allowed(source) {
            breaches.push(format!("{} {}: {source}", package.name, package.version));
        }
    }
    assert!(
        !is_allowed("git+https://example.org/a.git#0")
            && !is_allowed("registry+https://example.org")
    );
    expect_none("a source that deny.toml does not allow", &breaches);
}

#[test]
fn no_version_requirement_is_open() {
    let mut breaches = Vec::new();
    for package in packages().values() {
        for name in &package.wildcards {
            breaches.push(format!("{} asks for any version of {name}", package.name));
        }
    }
    expect_none("a dependency without a version", &breaches);
}
