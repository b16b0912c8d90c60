//! A Grafana board as a file: what it asks for, and what is missing from it.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

/// One board.
pub(super) struct Board(Value);

/// The boards of a folder.
pub(super) fn boards(folder: &Path) -> Vec<Board> {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut paths: Vec<_> = entries.filter(|path| path.extension().is_some_and(|kind| kind == "json")).collect();
    paths.sort();
    paths.iter().map(|path| Board::parse(&std::fs::read_to_string(path).expect("it is text"))).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], |all| all)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

impl Board {
    pub(super) fn parse(text: &str) -> Self {
        Self(serde_json::from_str(text).expect("it is JSON"))
    }

    pub(super) fn title(&self) -> &str {
        text(&self.0["title"])
    }

    fn panels(&self) -> impl Iterator<Item = &Value> {
        list(&self.0["panels"]).iter().filter(|panel| panel["type"] != "row")
    }

    /// Every question to Prometheus by its panel, with Grafana's variables filled in as for "All" and for scrapes twice
    /// a second.
    pub(super) fn expressions(&self) -> Vec<(String, String)> {
        let of_panel = |panel: &Value| {
            let targets = list(&panel["targets"]).iter();
            targets.map(|target| (text(&panel["title"]).to_owned(), filled(text(&target["expr"])))).collect::<Vec<_>>()
        };
        let notes = list(&self.0["annotations"]["list"]).iter();
        let notes = notes.map(|note| (text(&note["name"]).to_owned(), filled(text(&note["expr"]))));
        self.panels().flat_map(of_panel).chain(notes).collect()
    }

    /// What it lacks. `alerts`: the sections of the runbook that it may lead to.
    pub(super) fn faults(&self, alerts: &BTreeSet<String>) -> Vec<String> {
        let mut faults = Vec::new();
        let mut expect = |holds: bool, what: String| {
            if !holds {
                faults.push(what);
            }
        };
        let board = &self.0;
        expect(board["schemaVersion"].as_u64() >= Some(39), "a schema of the last years".into());
        expect(text(&board["uid"]).starts_with("tercet-"), "a uid, so that links stay".into());
        expect(!list(&board["links"]).is_empty(), "a link to the runbook".into());
        let variables = list(&board["templating"]["list"]);
        let has = |name: &str, kind: &str| variables.iter().any(|one| one["name"] == name && one["type"] == kind);
        expect(has("datasource", "datasource"), "a variable for the data source".into());
        let chosen = ["job", "instance"].iter().all(|name| has(name, "query"));
        let narrowed = ["service", "route"].iter().any(|name| has(name, "query"));
        expect(chosen && narrowed, "variables to choose by".into());
        let mut ids = BTreeSet::new();
        for panel in list(&board["panels"]) {
            expect(ids.insert(panel["id"].as_u64()), format!("{}: an id of its own", text(&panel["title"])));
        }
        let mut titles = BTreeSet::new();
        let mut taken = BTreeSet::new();
        for panel in self.panels() {
            let title = text(&panel["title"]);
            expect(titles.insert(title), format!("{title}: a title of its own"));
            expect(text(&panel["description"]).len() > 20, format!("{title}: a description"));
            let defaults = &panel["fieldConfig"]["defaults"];
            expect(!text(&defaults["unit"]).is_empty(), format!("{title}: a unit"));
            expect(!list(&defaults["thresholds"]["steps"]).is_empty(), format!("{title}: thresholds"));
            let targets = list(&panel["targets"]);
            expect(!targets.is_empty(), format!("{title}: a question"));
            for target in targets.iter().chain([panel]) {
                let source = &target["datasource"]["uid"];
                expect(source == "${datasource}", format!("{title}: the data source that was chosen, not {source}"));
            }
            for link in list(&panel["links"]) {
                let section = text(&link["url"]).strip_prefix("${runbook}#").unwrap_or_default();
                expect(alerts.contains(section), format!("{title}: {link} leads to no section of the runbook"));
            }
            let at = |name: &str| panel["gridPos"][name].as_u64().unwrap_or_default();
            expect(at("x") + at("w") <= 24, format!("{title}: lies within 24 columns"));
            let mut cells =
                (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y)));
            expect(cells.all(|cell| taken.insert(cell)), format!("{title}: lies on no other"));
        }
        for (panel, expression) in self.expressions() {
            expect(!expression.contains('$'), format!("{panel}: {expression} has a variable that nobody fills in"));
        }
        faults
    }
}

fn filled(expression: &str) -> String {
    let all = ["$job", "$instance", "$service", "$route"];
    let expression = all.iter().fold(expression.to_owned(), |text, name| text.replace(name, ".*"));
    expression.replace("$__rate_interval", "5s")
}
