//! Go-template subset behind `--format`: the part of `text/template` that people type at podman.
//!
//! Known: text, `{{.A.B}}`, `$` and variables, pipes, parentheses, string, number and boolean literals, `{{- -}}` trims,
//! comments, `if / else if / else`, `range` (also with `$k, $v :=` and `else`), `with`, and the functions listed in [`eval`].
//! Not known: `define`, `template`, `block`, `break`, `continue`, method calls.

mod eval;
mod parse;

use serde_json::Value;

pub use eval::print_value;

/// A template that was parsed once and is rendered per row.
#[derive(Debug)]
pub struct Template {
    nodes: Vec<parse::Node>,
}

/// Why a template could not be parsed or rendered.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TemplateError {
    /// The text is not a template of the known subset.
    #[error("template: {reason} at byte {at} of the format")]
    Syntax {
        /// Byte offset in the template text.
        at: usize,
        /// What is wrong.
        reason: String,
    },
    /// The template does not fit the data.
    #[error("template: {0}")]
    Eval(String),
}

impl Template {
    /// Parses `text`. The escapes `\t` and `\n`, which a shell leaves as two characters, count as tab and newline.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let text = text.replace("\\t", "\t").replace("\\n", "\n");
        Ok(Self {
            nodes: parse::parse(&text)?,
        })
    }

    /// Renders the template over one value. A field that the value lacks is an error.
    pub fn render(&self, data: &Value) -> Result<String, TemplateError> {
        eval::render(&self.nodes, data, false)
    }

    /// Renders the template over a table's headers: an unknown field gives `<no value>`.
    pub fn render_lenient(&self, data: &Value) -> Result<String, TemplateError> {
        eval::render(&self.nodes, data, true)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn sample() -> Value {
        json!({
            "Id": "abc", "Names": ["web", "www"], "State": {"Running": true, "ExitCode": 0, "Health": null},
            "Config": {"Labels": {"b": "2", "a": "1"}, "Cmd": ["sleep", "1"], "Env": []},
            "Mounts": [{"Source": "/a", "Destination": "/b"}, {"Source": "/c", "Destination": "/d"}],
            "Size": 1536, "Share": 0.5
        })
    }

    #[test]
    fn renders_what_podman_users_type() {
        for (template, want) in [
            ("plain", "plain"),
            ("{{.Id}}", "abc"),
            ("{{ .ID }}", "abc"),
            ("{{.Id}} is {{.State.Running}}", "abc is true"),
            ("{{.Names}}", "[web www]"),
            ("{{.Config.Labels}}", "map[a:1 b:2]"),
            ("{{index .Config.Labels \"a\"}}", "1"),
            ("{{index .Config.Labels \"zz\"}}", ""),
            ("{{.Config.Labels.zz}}", "<no value>"),
            ("{{index .Names 1}}", "www"),
            ("{{json .Config.Cmd}}", r#"["sleep","1"]"#),
            ("{{.Config.Cmd | json}}", r#"["sleep","1"]"#),
            ("{{join .Names \",\"}}", "web,www"),
            ("{{range .Mounts}}{{.Source}}:{{.Destination}} {{end}}", "/a:/b /c:/d "),
            ("{{range $i, $m := .Mounts}}{{$i}}={{$m.Source}};{{end}}", "0=/a;1=/c;"),
            ("{{range $k, $v := .Config.Labels}}{{$k}}={{$v}} {{end}}", "a=1 b=2 "),
            ("{{range .Config.Env}}x{{else}}none{{end}}", "none"),
            ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
            (
                "{{if eq .State.ExitCode 1}}one{{else if eq .State.ExitCode 0}}zero{{else}}many{{end}}",
                "zero",
            ),
            ("{{with .State}}{{.ExitCode}}{{end}}", "0"),
            ("{{if and .State.Running (gt .Size 1000)}}big{{end}}", "big"),
            ("{{if not .State.Running}}x{{end}}", ""),
            ("{{upper .Id}}-{{.Id | lower | title}}", "ABC-Abc"),
            ("{{len .Names}}", "2"),
            (
                "{{printf \"%s has %d, %q %v %5d|%-5s|\" .Id .Size .Id .Names 7 \"ab\"}}",
                "abc has 1536, \"abc\" [web www]     7|ab   |",
            ),
            ("a {{- .Id -}} b", "aabcb"),
            ("a{{/* nothing */}}b", "ab"),
            ("{{.Id}}\\t{{.Size}}\\n", "abc\t1536\n"),
            ("{{`raw \\x`}}", "raw \\x"),
            ("{{\"q\\\"\"}}", "q\""),
            ("{{.Share}}", "0.5"),
            ("{{$x := .Id}}{{$x}}", "abc"),
            ("{{(index .Mounts 0).Source}}", "/a"),
            ("{{$.Id}}{{range .Names}}{{$.Id}}{{end}}", "abcabcabc"),
            ("{{ne .Id \"abc\"}} {{lt 1 2}} {{or \"\" \"x\"}}", "false true x"),
            ("{{slice .Id 0 2}}", "ab"),
            ("{{range split \"a,b\" \",\"}}[{{.}}]{{end}}", "[a][b]"),
        ] {
            let got = Template::parse(template).and_then(|t| t.render(&sample()));
            assert_eq!(got.as_deref(), Ok(want), "{template}");
        }
    }

    #[test]
    fn refuses_what_is_not_a_template() {
        for bad in [
            "{{",
            "{{.Id",
            "{{end}}",
            "{{if .Id}}",
            "{{else}}",
            "{{nofunc .Id}}",
            "{{\"open}}",
            "{{.Id}} {{range}}",
            "{{)}}",
            "{{template \"x\"}}",
            "{{.Id | }}",
            "{{$nope}}",
        ] {
            assert!(
                Template::parse(bad).and_then(|t| t.render(&sample())).is_err(),
                "{bad} was accepted"
            );
        }
        let deep = "{{if .Id}}".repeat(1000);
        assert!(Template::parse(&deep).is_err());
        let deep = format!("{{{{{}}}}}", "(".repeat(10_000));
        assert!(Template::parse(&deep).is_err());
    }

    #[test]
    fn an_unknown_field_is_an_error_in_a_row_and_no_value_in_a_header() {
        let template = Template::parse("{{.Nope}}").unwrap();
        let error = template.render(&sample()).unwrap_err().to_string();
        assert!(error.contains("`Nope`"), "{error}");
        assert_eq!(template.render_lenient(&sample()).unwrap(), "<no value>");
    }
}
