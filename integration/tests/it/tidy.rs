//! The habits of the repository, held by a test instead of by review.
//!
//! A rule is a function from the repository's files to what is wrong with them, so that each can be shown a small
//! broken repository.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use tercet_rules::{Code, Language};

const LINES_MAX: usize = 500;
const WIDTH_MAX: usize = 120;
const ARCHITECTURE_LINES_MAX: usize = 150;

/// What may stand at the top, besides what `.gitignore` hides.
const TOP: [&str; 16] = [
    ".cargo",
    ".ci",
    ".gitignore",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "charts",
    "clippy.toml",
    "coordinator",
    "deny.toml",
    "integration",
    "participants",
    "proto",
    "rustfmt.toml",
    "sql",
];

/// Folders with nothing of ours in them.
const SKIPPED: [&str; 4] = [".git", "target", "data", "node_modules"];

/// Which of our crates each crate may depend on. Services know the SDK and never each other; the coordinator knows no
/// participant; only the testing kit, the platform and this crate know both sides.
const LAYOUT: [(&str, &[&str]); 16] = [
    ("tercet-core", &[]),
    ("tercet-proto", &[]),
    ("tercet-secure", &[]),
    ("tercet", &["tercet-proto", "tercet-secure"]),
    ("tercet-coordinator", &["tercet-core", "tercet-proto", "tercet-secure"]),
    ("tercet-testing", &["tercet", "tercet-coordinator", "tercet-core", "tercet-proto"]),
    ("tercet-simulation", &["tercet", "tercet-coordinator", "tercet-core", "tercet-proto"]),
    ("tercet-rules", &["tercet-proto"]),
    ("tercet-events", &["tercet", "tercet-proto"]),
    ("tercet-business-log", SERVICE),
    ("tercet-shards", &["tercet"]),
    ("tercet-stock", SERVICE),
    ("tercet-coupon", SERVICE),
    ("tercet-coupon-template", SERVICE),
    ("tercet-order", SERVICE),
    ("tercet-gateway", &["tercet", "tercet-proto", "tercet-rules", "tercet-secure"]),
];
const SERVICE: &[&str] = &["tercet", "tercet-events", "tercet-proto", "tercet-rules", "tercet-shards"];
const ANYTHING: [&str; 2] = ["tercet-platform", "tercet-integration"];

/// Text files by their path from the top, with `/`.
type Files = BTreeMap<String, String>;

#[test]
fn the_repository_is_tidy() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Files::new();
    read(&top, "", &mut files);
    assert!(files.contains_key("Cargo.toml"), "this is not the repository: {}", top.display());
    let faults = faults(&files);
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

fn read(folder: &Path, prefix: &str, files: &mut Files) {
    for entry in std::fs::read_dir(folder).expect("a folder of the repository") {
        let entry = entry.expect("an entry of the repository");
        let name = entry.file_name().into_string().expect("names are UTF-8");
        if SKIPPED.contains(&name.as_str()) {
            continue;
        }
        let path = format!("{prefix}{name}");
        if entry.file_type().expect("the entry is there").is_dir() {
            read(&entry.path(), &format!("{path}/"), files);
        } else if let Ok(text) = std::fs::read_to_string(entry.path()) {
            files.insert(path, text);
        }
    }
}

fn faults(files: &Files) -> Vec<String> {
    let rules = [sizes, openings, widths, left_overs, orphans, layout, architecture, top_level, metrics, runbook];
    rules.iter().flat_map(|rule| rule(files)).collect()
}

fn rust(files: &Files) -> impl Iterator<Item = (&String, &String)> {
    files.iter().filter(|(path, _)| path.ends_with(".rs"))
}

/// Files are short enough to read, tests left out.
fn sizes(files: &Files) -> Vec<String> {
    let tests: BTreeSet<String> = modules(files).into_iter().filter_map(|(path, test)| test.then_some(path)).collect();
    rust(files)
        .filter(|(path, _)| !tests.contains(*path))
        .map(|(path, text)| (path, text.lines().take_while(|line| *line != "#[cfg(test)]").count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(path, lines)| format!("{path}: {lines} lines, at most {LINES_MAX} without tests"))
        .collect()
}

/// A reader learns from the first line what a file is.
fn openings(files: &Files) -> Vec<String> {
    rust(files)
        .filter(|(_, text)| !text.starts_with("//! "))
        .map(|(path, _)| format!("{path}: opens without //!"))
        .collect()
}

fn widths(files: &Files) -> Vec<String> {
    let mut faults = Vec::new();
    for (path, text) in rust(files) {
        for (at, line) in text.lines().enumerate().filter(|(_, line)| line.chars().count() > WIDTH_MAX) {
            faults.push(format!("{path}:{}: {} wide, at most {WIDTH_MAX}", at + 1, line.chars().count()));
        }
    }
    faults
}

/// Work is finished or in an issue, not in a comment.
fn left_overs(files: &Files) -> Vec<String> {
    let mut faults = Vec::new();
    for (path, text) in files {
        let kind = path.rsplit('.').next().unwrap_or_default();
        if !["rs", "proto", "sql", "sh", "toml", "md", "yaml"].contains(&kind) {
            continue;
        }
        for (at, line) in text.lines().enumerate() {
            // Spelled in two parts, or this line would find itself.
            for word in [concat!("TO", "DO"), concat!("FIX", "ME")] {
                if line.split(|c: char| !c.is_ascii_alphanumeric()).any(|found| found == word) {
                    faults.push(format!("{path}:{}: {word}", at + 1));
                }
            }
        }
    }
    faults
}

/// Every file is compiled: a module that nothing declares is dead.
fn orphans(files: &Files) -> Vec<String> {
    let reached: BTreeSet<String> = modules(files).into_keys().collect();
    rust(files)
        .filter(|(path, _)| !reached.contains(*path))
        .map(|(path, _)| format!("{path}: no mod leads here"))
        .collect()
}

/// All files that a `mod` leads to from a crate's root, and whether only tests see them.
fn modules(files: &Files) -> BTreeMap<String, bool> {
    let mut open: Vec<(String, bool)> =
        rust(files).filter(|(path, _)| is_root(path)).map(|(path, _)| (path.clone(), false)).collect();
    let mut reached = BTreeMap::new();
    while let Some((path, test)) = open.pop() {
        let folder = match path.rsplit_once('/') {
            Some((folder, "lib.rs" | "main.rs" | "mod.rs")) => folder.to_owned(),
            Some((folder, _)) if is_root(&path) => folder.to_owned(),
            _ => path.trim_end_matches(".rs").to_owned(),
        };
        let mut before = "";
        for line in files[&path].lines() {
            if let Some(name) = declared(line) {
                let test = test || before == "#[cfg(test)]";
                let places = [format!("{folder}/{name}.rs"), format!("{folder}/{name}/mod.rs")];
                open.extend(places.into_iter().filter(|path| files.contains_key(path)).map(|path| (path, test)));
            }
            before = line.trim();
        }
        reached.insert(path, test);
    }
    reached
}

/// The name in `mod name;`, with any visibility.
fn declared(line: &str) -> Option<&str> {
    let line = line.trim().strip_suffix(';')?;
    let (visibility, name) = line.rsplit_once("mod ")?;
    let visibility = visibility.trim_end();
    (visibility.is_empty() || visibility.starts_with("pub")).then_some(name)
}

fn is_root(path: &str) -> bool {
    let Some((folder, name)) = path.rsplit_once('/') else { return false };
    let folder = folder.rsplit('/').next().unwrap_or(folder);
    match folder {
        "src" => matches!(name, "lib.rs" | "main.rs"),
        "bin" | "examples" => true,
        "it" => name == "main.rs",
        _ => name == "build.rs",
    }
}

/// Dependencies point the way that conventions allow.
fn layout(files: &Files) -> Vec<String> {
    let mut faults = Vec::new();
    for (path, text) in files.iter().filter(|(path, _)| path.ends_with("/Cargo.toml")) {
        let name = text.lines().find_map(|line| line.strip_prefix("name = ")).unwrap_or_default().trim_matches('"');
        if ANYTHING.contains(&name) {
            continue;
        }
        let Some((_, allowed)) = LAYOUT.iter().find(|(crate_name, _)| *crate_name == name) else {
            faults.push(format!("{path}: the layout does not know the crate {name:?}"));
            continue;
        };
        for (section, dependency) in dependencies(text) {
            let of_tests = section == "dev-dependencies";
            let ours = dependency == "tercet" || dependency.starts_with("tercet-");
            // The testing kit is for the tests of those who depend on the SDK.
            let kit = of_tests && dependency == "tercet-testing" && allowed.contains(&"tercet");
            let bare = name == "tercet-core" && !of_tests;
            if (ours || bare) && !allowed.contains(&dependency) && !kit {
                faults.push(format!("{path}: {name} may not depend on {dependency}"));
            }
        }
    }
    faults
}

/// The names under every kind of dependency section, with the section's last word.
fn dependencies(manifest: &str) -> Vec<(&str, &str)> {
    let mut section = "";
    let mut found = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_end_matches(']').rsplit('.').next().unwrap_or_default();
        } else if section.ends_with("dependencies") && !line.is_empty() && !line.starts_with('#') {
            found.push((section, line.split(['.', ' ', '=']).next().unwrap_or_default()));
        }
    }
    found
}

fn architecture(files: &Files) -> Vec<String> {
    let lines = files.get("coordinator/ARCHITECTURE.md").map_or(0, |text| text.lines().count());
    let fault = || format!("coordinator/ARCHITECTURE.md: {lines} lines, at most {ARCHITECTURE_LINES_MAX}");
    (lines > ARCHITECTURE_LINES_MAX).then(fault).into_iter().collect()
}

fn top_level(files: &Files) -> Vec<String> {
    let names: BTreeSet<&str> = files.keys().filter_map(|path| path.split('/').next()).collect();
    names.difference(&TOP.into()).map(|name| format!("{name}: not a name for the top level")).collect()
}

/// What a dashboard or an alert asks for is measured.
fn metrics(files: &Files) -> Vec<String> {
    let measured: BTreeSet<&str> = files
        .iter()
        .filter(|(path, _)| path.ends_with("/metrics.rs"))
        .flat_map(|(_, text)| metric_names(text))
        .collect();
    let mut faults = Vec::new();
    for (path, text) in files.iter().filter(|(path, _)| path.starts_with("charts/")) {
        for name in metric_names(text) {
            // A histogram is asked for by its parts.
            let whole = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
            if !measured.contains(name) && !whole.is_some_and(|whole| measured.contains(whole)) {
                faults.push(format!("{path}: {name} is in no metrics.rs"));
            }
        }
    }
    faults
}

/// Whom an alert wakes finds what it means, what to look at and what is safe; and no section outlives its alert.
fn runbook(files: &Files) -> Vec<String> {
    let mut faults = Vec::new();
    let mut sections = BTreeMap::new();
    for section in files.get("charts/RUNBOOK.md").map_or("", String::as_str).split("\n## ").skip(1) {
        let (name, text) = section.split_once('\n').unwrap_or((section, ""));
        for part in ["**Means** ", "**Look at** ", "**Safe** "].iter().filter(|part| !text.contains(**part)) {
            faults.push(format!("charts/RUNBOOK.md: {name} has no {part}"));
        }
        sections.insert(name, text);
    }
    let rules = files.get("charts/alerts.yaml").map_or("", String::as_str);
    for rule in rules.split("- alert: ").skip(1) {
        let name = rule.lines().next().unwrap_or_default();
        if sections.remove(name).is_none() {
            faults.push(format!("charts/RUNBOOK.md: no section for the alert {name}"));
        }
        let link = format!("runbook_url: charts/RUNBOOK.md#{}\n", name.to_lowercase());
        if !rule.contains(&link) {
            faults.push(format!("charts/alerts.yaml: {name} does not lead to its section of the runbook"));
        }
    }
    faults.extend(sections.into_keys().map(|name| format!("charts/RUNBOOK.md: {name} is no alert")));
    faults
}

fn metric_names(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| word.starts_with("tercet_"))
}

/// The README's table of codes is the catalogue, line by line.
#[test]
fn the_readme_lists_every_code() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = std::fs::read_to_string(readme).expect("there is one");
    let line = |code: &Code| {
        let (en, zh) = (code.pattern(Language::En), code.pattern(Language::Zh));
        format!("| `{}` | {} | {en} | {zh} |", code.name(), code.http())
    };
    let wanted: Vec<String> = Code::ALL.iter().map(line).collect();
    let (_, table) =
        readme.split_once("| code | status | English | 中文 |\n|---|---|---|---|\n").expect("it has the table");
    let found: Vec<&str> = table.lines().take_while(|line| line.starts_with('|')).collect();
    assert_eq!(found, wanted, "the table has to be\n{}", wanted.join("\n"));
}

const ALERT: &str = "- alert: A\n  expr: rate(tercet_a_seconds_bucket[5m])\n  runbook_url: charts/RUNBOOK.md#a\n";
const SECTION: &str = "# Runbook\n\n## A\n\n**Means** x\n\n**Look at** y\n\n**Safe** z\n";

/// A repository without a fault.
fn sound() -> Files {
    [
        ("Cargo.toml", "[workspace]\n".to_owned()),
        ("coordinator/core/Cargo.toml", "name = \"tercet-core\"\n[dependencies]\n".to_owned()),
        (
            "participants/stock/Cargo.toml",
            "name = \"tercet-stock\"\n[dev-dependencies]\ntercet-testing.workspace = true\n".to_owned(),
        ),
        ("coordinator/src/lib.rs", "//! Ours.\npub(crate) mod metrics;\n#[cfg(test)]\nmod tests;\n".to_owned()),
        ("coordinator/src/metrics.rs", "//! Names.\nconst A: &str = \"tercet_a_seconds\";\n".to_owned()),
        ("coordinator/src/tests.rs", format!("//! Long.\n{}", "\n".repeat(600))),
        ("charts/alerts.yaml", ALERT.to_owned()),
        ("charts/RUNBOOK.md", SECTION.to_owned()),
    ]
    .map(|(path, text)| (path.to_owned(), text))
    .into()
}

/// Every rule finds the one fault planted for it, and the sound repository has none.
#[test]
fn each_rule_sees_its_own_fault() {
    let sound = sound();
    assert_eq!(faults(&sound), Vec::<String>::new());

    let planted = [
        (
            "coordinator/src/metrics.rs",
            format!("//! Long.\n{}// tercet_a_seconds", "\n".repeat(499)),
            "501 lines, at most",
        ),
        ("coordinator/src/metrics.rs", "// tercet_a_seconds\n".to_owned(), "opens without"),
        ("coordinator/src/metrics.rs", format!("//! tercet_a_seconds {}", "é".repeat(100)), "121 wide"),
        (
            "coordinator/src/metrics.rs",
            format!("//! tercet_a_seconds {}", concat!("TO", "DO")),
            concat!(":1: TO", "DO"),
        ),
        ("coordinator/src/metrics/deep.rs", "//! Lost.\n".to_owned(), "no mod leads here"),
        (
            "coordinator/core/Cargo.toml",
            "name = \"tercet-core\"\n[dependencies]\nlibc = \"1\"\n".to_owned(),
            "depend on libc",
        ),
        (
            "participants/sdk/Cargo.toml",
            "name = \"tercet\"\n[dependencies]\ntercet-coordinator.workspace = true\n".to_owned(),
            "depend on tercet-coordinator",
        ),
        (
            "participants/stock/Cargo.toml",
            "name = \"tercet-stock\"\n[dependencies]\ntercet-coupon.workspace = true\n".to_owned(),
            "depend on tercet-coupon",
        ),
        (
            "participants/stock/Cargo.toml",
            "name = \"tercet-stock\"\n[dependencies]\ntercet-testing.workspace = true\n".to_owned(),
            "depend on tercet-testing",
        ),
        (
            "coordinator/Cargo.toml",
            "name = \"tercet-coordinator\"\n[target.x.dev-dependencies]\ntercet = \"1\"\n".to_owned(),
            "depend on tercet",
        ),
        ("participants/new/Cargo.toml", "name = \"tercet-new\"\n".to_owned(), "does not know the crate"),
        ("coordinator/ARCHITECTURE.md", "x\n".repeat(151), "151 lines"),
        ("notes.txt", String::new(), "not a name for the top level"),
        ("charts/dashboard.json", "tercet_b_total".to_owned(), "tercet_b_total is in no metrics.rs"),
        ("charts/alerts.yaml", ALERT.replace("#a\n", "#b\n"), "A does not lead to its section"),
        ("charts/alerts.yaml", ALERT.replace("charts/R", "https://x.example/R"), "A does not lead to its section"),
        ("charts/alerts.yaml", String::new(), "A is no alert"),
        ("charts/RUNBOOK.md", "# Runbook\n".to_owned(), "no section for the alert A"),
        ("charts/RUNBOOK.md", SECTION.replace("**Safe**", "Safe"), "A has no **Safe**"),
    ];
    for (path, text, fault) in planted {
        let mut files = sound.clone();
        files.insert(path.to_owned(), text);
        let found = faults(&files);
        assert!(found.len() == 1 && found[0].contains(fault), "{path} with {fault:?} planted: {found:?}");
    }
}
