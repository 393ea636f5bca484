//! Templates and what Go makes of them.

use proptest::prelude::*;

use super::*;

fn environment(name: &str) -> Option<String> {
    match name {
        "DOMAIN" => Some("example.org".to_owned()),
        "BACKENDS" => Some("10.0.0.1,10.0.0.2".to_owned()),
        _ => None,
    }
}

#[track_caller]
fn check(template: &str, expected: &str) {
    match render(template, "f.yaml", &environment) {
        Ok(output) => assert_eq!(output, expected, "{template}"),
        Err(problem) => panic!("{template}: {problem}"),
    }
}

#[track_caller]
fn check_problem(template: &str, expected: &str) {
    let problem = render(template, "f.yaml", &environment).expect_err(template).to_string();
    assert_eq!(problem, expected, "{template}");
}

#[test]
fn text_and_trim_markers() {
    check("plain } text {", "plain } text {");
    check("a {{ 1 }} b", "a 1 b");
    check("a {{- 1 -}} b", "a1b");
    check("a \n\t{{- 1 }} b", "a1 b");
    check("a {{ 1 -}} \n b", "a 1b");
    check("a{{/* a }} comment */}}b", "ab");
    check("a {{- /* c */ -}} b", "ab");
    check("{{-3}}", "-3");
    check("{{ \"{{\" }}{{ `}}` }}", "{{}}");
    check("{{ print\n  1\n  `a` }}", "1a");
}

#[test]
fn literals() {
    check("{{ 0x1F }} {{ 0b101 }} {{ 0o17 }} {{ 017 }} {{ 1_000 }} {{ -5 }} {{ +5 }}", "31 5 15 15 1000 -5 5");
    check(
        "{{ 1.50 }} {{ .5 }} {{ 1e3 }} {{ 1e6 }} {{ 123456789.0 }} {{ 1e-5 }}",
        "1.5 0.5 1000 1e+06 1.23456789e+08 1e-05",
    );
    check("{{ true }} {{ false }} {{ 'a' }} {{ '\\n' }}", "true false 97 10");
    check(r#"{{ "a\tb\"\\\x41é\101" }}{{ `a\t"` }}"#, "a\tb\"\\Aé\u{41}a\\t\"");
}

#[test]
fn variables() {
    check("{{ $x := 1 }}{{ $x }}{{ $x = 2 }}{{ $x }}", "12");
    check("{{ $x := 1 }}{{ if true }}{{ $x := 2 }}{{ $x }}{{ end }}{{ $x }}", "21");
    check("{{ $x := 1 }}{{ if true }}{{ $x = 2 }}{{ $x }}{{ end }}{{ $x }}", "22");
    check("{{ $ }} {{ . }}", "false false");
    check("{{ $m := dict \"a\" (dict \"b\" 3) }}{{ $m.a.b }} {{ $m.none }} {{ ($m.a).b }}", "3 <no value> 3");
    check_problem("a\n{{ $x }}", "f.yaml:2:4: error: template: the variable `$x` is not known here");
    check_problem(
        "{{ $one := 1 }}{{ $oen }}",
        "f.yaml:1:19: error: template: the variable `$oen` is not known here (did you mean `$one`?)",
    );
    check_problem(
        "{{ $x = 1 }}",
        "f.yaml:1:4: error: template: the variable `$x` is not known here (declare it with `$x := …`)",
    );
    check_problem(
        "{{ if $x := 1 }}{{ end }}{{ $x }}",
        "f.yaml:1:29: error: template: the variable `$x` is not known here",
    );
}

#[test]
fn conditions() {
    for (condition, truth) in [
        ("true", true),
        ("0", false),
        ("0.0", false),
        ("1", true),
        ("\"\"", false),
        ("\"a\"", true),
        ("(list)", false),
        ("(list 1)", true),
        ("(dict)", false),
        ("(dict).none", false),
        ("not 0", true),
        ("and 1 \"\"", false),
        ("or \"\" 1", true),
    ] {
        check(&format!("{{{{ if {condition} }}}}yes{{{{ else }}}}no{{{{ end }}}}"), if truth { "yes" } else { "no" });
    }
    let chain = "{{ $x := 2 }}{{ if eq $x 1 }}a{{ else if eq $x 2 }}b{{ else if eq $x 3 }}c{{ else }}d{{ end }}";
    check(chain, "b");
    check("{{ with \"a\" }}{{ . }}{{ else }}none{{ end }}", "a");
    check("{{ with \"\" }}{{ . }}{{ else with \"b\" }}{{ . }}{{ else }}none{{ end }}", "b");
    check("{{ with $x := list 1 2 }}{{ $x }}{{ . }}{{ end }}", "[1 2][1 2]");
}

#[test]
fn and_and_or_stop_early() {
    check("{{ or 1 (fail `never`) }}{{ and 0 (fail `never`) }}{{ and 1 2 }}{{ or 0 `` }}{{ 5 | and 4 }}", "1025");
}

#[test]
fn loops() {
    check("{{ range list 1 2 3 }}<{{ . }}>{{ end }}", "<1><2><3>");
    check("{{ range $i, $e := list `a` `b` }}{{ $i }}{{ $e }}{{ end }}", "0a1b");
    check("{{ range $e := list `a` `b` }}{{ $e }}{{ . }}{{ end }}", "aabb");
    check("{{ range $k, $v := dict `b` 2 `a` 1 }}{{ $k }}={{ $v }};{{ end }}", "a=1;b=2;");
    check("{{ range 3 }}{{ . }}{{ end }}{{ range $i := 2 }}{{ $i }}{{ end }}", "01201");
    check("{{ range list }}x{{ else }}empty{{ end }}{{ range 0 }}x{{ else }}none{{ end }}", "emptynone");
    check(
        "{{ range 5 }}{{ if eq . 1 }}{{ continue }}{{ end }}{{ if eq . 3 }}{{ break }}{{ end }}{{ . }}{{ end }}",
        "02",
    );
    check("{{ $n := 0 }}{{ range list 1 2 3 }}{{ $n = add $n . }}{{ end }}{{ $n }}", "6");
    check(
        "{{ range $i, $_ := list 1 2 }}{{ range $j, $_ := list 1 2 }}{{ $i }}{{ $j }} {{ end }}{{ end }}",
        "00 01 10 11 ",
    );
    check("{{ $i := 9 }}{{ $e := 9 }}{{ range $i, $e = list 7 8 }}{{ end }}{{ $i }}{{ $e }}", "18");
    check_problem("{{ break }}", "f.yaml:1:1: error: template: `break` works only within `range`");
    check_problem(
        "{{ range `text` }}{{ end }}",
        "f.yaml:1:10: error: template: `range` needs a list, a map or a number, found the text \"text\"",
    );
}

#[test]
fn named_templates() {
    check("{{ define `host` }}Host({{ .name }}){{ end }}{{ template `host` dict `name` `a` }}", "Host(a)");
    check("{{ template `x` 1 }}{{ define `x` }}{{ . }}{{ $ }}{{ end }}", "11");
    check("{{ block `x` 1 }}<{{ . }}>{{ end }}{{ template `x` 2 }}", "<1><2>");
    check("{{ define `x` }}{{ . }}{{ end }}{{ template `x` }}", "<no value>");
    let countdown =
        "{{ define `n` }}{{ . }}{{ if gt . 0 }}{{ template `n` sub . 1 }}{{ end }}{{ end }}{{ template `n` 3 }}";
    check(countdown, "3210");
    check_problem(
        "{{ template `hots` }}{{ define `host` }}{{ end }}",
        "f.yaml:1:1: error: template: there is no template called `hots` (did you mean `host`?)",
    );
    check_problem(
        "{{ $x := 1 }}{{ define `a` }}{{ $x }}{{ end }}",
        "f.yaml:1:33: error: template: the variable `$x` is not known here",
    );
}

#[test]
fn pipelines() {
    check("{{ `a` | upper | repeat 2 }}", "AA");
    check("{{ list `b` `a` | sortAlpha | join `,` }}", "a,b");
    check("{{ (list 1 2 | len) }}{{ len (list 1 2 3) }}", "23");
    check("{{ env `DOMAIN` | default `none` }} {{ env `NOTHING` | default `none` }}", "example.org none");
    check(
        "{{ index (list 1 2 3) 1 }}{{ index (dict `a` (list 4 5)) `a` 1 }}{{ (index (list (dict `k` 6)) 0).k }}",
        "256",
    );
    check_problem("{{ 1 2 }}", "f.yaml:1:6: error: template: only functions take arguments");
    check_problem("{{ 1 | 2 }}", "f.yaml:1:8: error: template: only functions, not values, can stand behind `|`");
    check_problem("{{ `a``b` }}", "f.yaml:1:7: error: template: expected a space before `b`");
    check_problem("{{ nil }}", "f.yaml:1:4: error: template: `nil` is only an argument");
    check_problem("{{ }}", "f.yaml:1:4: error: template: a value is missing");
}

#[test]
fn comparisons() {
    check(
        "{{ eq 1 1 }} {{ eq 1 2 3 1 }} {{ ne `a` `b` }} {{ lt 1 2 }} {{ le 2 2 }} {{ gt 1.5 1.0 }} {{ ge `b` `a` }}",
        "true true true true true true true",
    );
    check("{{ eq nil (dict).x }} {{ eq `a` nil }}", "true false");
    check_problem(
        "{{ eq 1 `1` }}",
        "f.yaml:1:4: error: template: `eq`: the number 1 cannot be compared with the text \"1\"",
    );
}

#[test]
fn texts() {
    for (template, expected) in [
        ("upper `aé`", "AÉ"),
        ("toLower `AB`", "ab"),
        ("title `hello big-world`", "Hello Big-World"),
        ("untitle `Hello World`", "hello world"),
        ("trim `  a `", "a"),
        ("trimAll `$` `$5.00$`", "5.00"),
        ("trimPrefix `-` `-a`", "a"),
        ("trimSuffix `-` `a-`", "a"),
        ("nospace `a b  c`", "abc"),
        ("replace `.` `-` `a.b.c`", "a-b-c"),
        ("contains `b` `abc`", "true"),
        ("hasPrefix `ab` `abc`", "true"),
        ("hasSuffix `ab` `abc`", "false"),
        ("repeat 3 `ab`", "ababab"),
        ("substr 0 2 `abc`", "ab"),
        ("substr 1 -1 `abc`", "bc"),
        ("trunc 2 `abc`", "ab"),
        ("trunc -2 `abc`", "bc"),
        ("quote `a\"b` 1", "\"a\\\"b\" \"1\""),
        ("squote `a` `b`", "'a' 'b'"),
        ("cat 1 `a` true", "1 a true"),
        ("indent 2 `a\nb`", "  a\n  b"),
        ("nindent 2 `a\nb`", "\n  a\n  b"),
        ("join `-` (list 1 `a` true)", "1-a-true"),
        ("join `-` `a`", "a"),
        ("split `a,b` `,`", "[a b]"),
        ("splitList `,` `a,b`", "[a b]"),
        ("index (split (env `BACKENDS`) `,`) 1", "10.0.0.2"),
        ("normalize `/my_app.v2 test/`", "my-app-v2-test"),
        ("toString 12", "12"),
        ("toStrings (list 1 2)", "[1 2]"),
        ("plural `one` `many` 2", "many"),
        ("regexMatch `^a+$` `aaa`", "true"),
        ("regexFind `[0-9]+` `ab12cd3`", "12"),
        ("regexFindAll `[0-9]` `a1b2c3` 2", "[1 2]"),
        ("regexReplaceAll `a(x*)b` `-ab-axxb-` `${1}W`", "-W-xxW-"),
        ("regexReplaceAllLiteral `a` `aa` `$1`", "$1$1"),
        ("regexSplit `,` `a,b,c` -1", "[a b c]"),
        ("expandenv `x-$DOMAIN-${DOMAIN}-$NO`", "x-example.org-example.org-"),
        ("print 1 2 `a` 3", "1 2a3"),
        ("println 1 `a`", "1 a\n"),
        ("html `<a href=\"b\">&'`", "&lt;a href=&#34;b&#34;&gt;&amp;&#39;"),
        ("js `it's <b>`", "it\\'s \\u003Cb\\u003E"),
        ("urlquery `a b&c/d`", "a+b%26c%2Fd"),
        ("b64enc `abc` | b64dec", "abc"),
        ("sha256sum `abc` | trunc 8", "ba7816bf"),
        ("b64enc `abc`", "YWJj"),
    ] {
        check(&format!("{{{{ {template} }}}}"), expected);
    }
}

#[test]
fn formats() {
    for (format, arguments, expected) in [
        ("%s-%d-%v", "`a` 1 true", "a-1-true"),
        ("%03d|%-4d|%4d|%+d", "7 7 7 7", "007|7   |   7|+7"),
        ("%q %x %X %o %b", "`a\"` 255 255 8 5", "\"a\\\"\" ff FF 10 101"),
        ("%.2f %8.3f %e %g", "3.14159 2.5 1500.0 0.5", "3.14 \u{20}  2.500 1.500000e+03 0.5"),
        ("%5s|%-5s|%.2s", "`ab` `ab` `abcd`", "   ab|ab   |ab"),
        ("%*d%%", "5 42", "   42%"),
        ("%v %v", "(list 1 `a`) (dict `k` nil)", "[1 a] map[k:<nil>]"),
        ("%c%U", "65 65", "AU+0041"),
        ("%05d", "-42", "-0042"),
    ] {
        check(&format!("{{{{ printf \"{}\" {arguments} }}}}", format.replace('"', "\\\"")), expected);
    }
    check_problem("{{ printf `%d` `a` }}", "f.yaml:1:4: error: template: `printf`: `%d` cannot write the text \"a\"");
    check_problem("{{ printf `%d` }}", "f.yaml:1:4: error: template: `printf`: no value for `%d`");
    check_problem(
        "{{ printf `a` 1 }}",
        "f.yaml:1:4: error: template: `printf`: one value more than the format has verbs",
    );
}

#[test]
fn numbers() {
    for (template, expected) in [
        ("add 1 2 3", "6"),
        ("add `3` 4.7 true", "8"),
        ("sub 5 2", "3"),
        ("mul 2 3 4", "24"),
        ("div 7 2", "3"),
        ("mod 7 2", "1"),
        ("max 1 5 3", "5"),
        ("min 4 2", "2"),
        ("int `12`", "12"),
        ("int64 3.9", "3"),
        ("float64 `1.5`", "1.5"),
        ("atoi `x`", "0"),
        ("addf 1.5 2", "3.5"),
        ("round 123.5555 2", "123.56"),
        ("ceil 1.1", "2"),
        ("floor 1.9", "1"),
        ("until 3", "[0 1 2]"),
        ("until -2", "[0 -1]"),
        ("untilStep 3 9 3", "[3 6]"),
        ("seq 5", "1 2 3 4 5"),
        ("seq 0 2 5", "0 2 4"),
        ("seq 2 -1", "2 1 0 -1"),
        ("add1 9223372036854775806", "9223372036854775807"),
    ] {
        check(&format!("{{{{ {template} }}}}"), expected);
    }
    check_problem("{{ div 1 0 }}", "f.yaml:1:4: error: template: `div`: division by zero");
    check_problem("{{ add 9223372036854775807 1 }}", "f.yaml:1:4: error: template: `add`: the number is too large");
}

#[test]
fn lists_and_maps() {
    for (template, expected) in [
        ("first (list 1 2)", "1"),
        ("last (list 1 2)", "2"),
        ("rest (list 1 2 3)", "[2 3]"),
        ("initial (list 1 2 3)", "[1 2]"),
        ("append (list 1) 2", "[1 2]"),
        ("prepend (list 1) 0", "[0 1]"),
        ("concat (list 1) (list 2)", "[1 2]"),
        ("reverse (list 1 2)", "[2 1]"),
        ("uniq (list 1 1 2)", "[1 2]"),
        ("without (list 1 2 3) 2", "[1 3]"),
        ("compact (list 0 1 ``)", "[1]"),
        ("has 2 (list 1 2)", "true"),
        ("slice (list 1 2 3) 1 2", "[2]"),
        ("slice `abc` 1", "bc"),
        ("chunk 2 (list 1 2 3)", "[[1 2] [3]]"),
        ("dict `b` 1 `a` 2", "map[a:2 b:1]"),
        ("get (dict `a` 1) `a`", "1"),
        ("get (dict `a` 1) `b`", ""),
        ("hasKey (dict `a` 1) `a`", "true"),
        ("keys (dict `b` 1 `a` 2)", "[a b]"),
        ("values (dict `b` 1 `a` 2)", "[2 1]"),
        ("pick (dict `b` 1 `a` 2) `a`", "map[a:2]"),
        ("omit (dict `b` 1 `a` 2) `a`", "map[b:1]"),
        ("pluck `a` (dict `a` 1) (dict `b` 2)", "[1]"),
        ("merge (dict `a` 1) (dict `a` 2 `b` 3)", "map[a:1 b:3]"),
        ("merge (dict `m` (dict `a` 1)) (dict `m` (dict `b` 2))", "map[m:map[a:1 b:2]]"),
        ("mergeOverwrite (dict `a` 1) (dict `a` 2)", "map[a:2]"),
        ("dig `a` `b` `none` (dict `a` (dict `b` 1))", "1"),
        ("dig `a` `c` `none` (dict `a` (dict))", "none"),
        ("default `d` ``", "d"),
        ("coalesce `` 0 `x`", "x"),
        ("ternary `y` `n` true", "y"),
        ("empty (list)", "true"),
        ("kindIs `map` (dict)", "true"),
        ("toJson (dict `a` (list 1 1.0 `<` nil true))", r#"{"a":[1,1,"\u003c",null,true]}"#),
        ("toRawJson (list `<`)", r#"["<"]"#),
        ("(fromJson `{\"port\": 8080}`).port", "8080"),
    ] {
        check(&format!("{{{{ {template} }}}}"), expected);
    }
    check(
        "{{ $d := dict }}{{ $same := $d }}{{ $_ := set $d `a` 1 }}{{ $same }}{{ $_ = unset $d `a` }}{{ $d }}",
        "map[a:1]map[]",
    );
    check(
        "{{ $d := dict `a` (dict) }}{{ $c := deepCopy $d }}{{ $_ := set $d.a `x` 1 }}{{ $d }}{{ $c }}",
        "map[a:map[x:1]]map[a:map[]]",
    );
    check("{{ $d := dict }}{{ $_ := set $d `a` 1 }}{{ toPrettyJson $d }}", "{\n  \"a\": 1\n}");
}

#[test]
fn mistakes_name_their_place_and_a_way_out() {
    check_problem(
        "a: 1\nb: {{ uper `x` }}",
        "f.yaml:2:7: error: template: there is no function called `uper` (did you mean `upper`?)",
    );
    check_problem(
        "é{{ upper 1 }}",
        "f.yaml:1:5: error: template: `upper`: argument 1 must be a text, found the number 1",
    );
    check_problem("{{ upper }}", "f.yaml:1:4: error: template: `upper` takes 1 arguments, not 0");
    check_problem("{{ if true }}", "f.yaml:1:1: error: template: this has no `{{ end }}`");
    check_problem("x{{ end }}", "f.yaml:1:2: error: template: `end` without anything to end");
    check_problem("{{ else }}", "f.yaml:1:1: error: template: `else` without `if`, `with` or `range`");
    check_problem("{{ 1", "f.yaml:1:1: error: template: the action has no `}}`");
    check_problem("{{ \"a }}", "f.yaml:1:4: error: template: the string has no closing \"");
    check_problem("{{/* x }}", "f.yaml:1:1: error: template: the comment has no `*/`");
    check_problem("{{ fail `no domain` }}", "f.yaml:1:4: error: template: `fail`: no domain");
    check_problem(
        "{{ now }}",
        "f.yaml:1:4: error: template: the function `now` is not supported: what it makes differs each time, so that every look at the file would be a change",
    );
    check_problem(
        "{{ .Name }}",
        "f.yaml:1:4: error: template: `.Name` needs a map, found `false` (in a file, `.` has a value only within `range`, `with` and templates)",
    );
}

#[test]
fn nothing_runs_forever_or_fills_memory() {
    let repeated = "{{ range 1000000 }}{{ range 1000000 }}{{ end }}{{ end }}";
    let doubled = "{{ $x := `ab` }}{{ range 60 }}{{ $x = print $x $x }}{{ end }}";
    let nested = "{{ $x := list }}{{ range 100000 }}{{ $x = list $x }}{{ end }}";
    let circular = "{{ $d := dict }}{{ $_ := set $d `d` $d }}{{ $d }}";
    let circular_json = "{{ $d := dict }}{{ $_ := set $d `d` (list $d) }}{{ toJson $d }}";
    let written = "{{ define `x` }}{{ template `x` }}{{ end }}{{ template `x` }}";
    let chained = "{{ $d := dict }}{{ range 100000 }}{{ $d = dict `x` $d }}{{ end }}{{ toJson $d }}";
    for (template, reason) in [
        (repeated, "does more than it may"),
        ("{{ until 2000000000 }}", "does more than it may"),
        ("{{ repeat 2000000000 `abc` }}", "is longer than"),
        ("{{ range 1000000 }}{{ repeat 100 `x` }}{{ end }}", "makes more than"),
        (doubled, "is longer than"),
        (nested, "lists within each other"),
        (circular, "levels, or is within itself"),
        (circular_json, "levels, or is within itself"),
        (chained, "levels, or is within itself"),
        (written, "within each other"),
        ("{{ printf `%99999d` 1 }}", "widths and precisions"),
        ("{{ regexMatch `((a{100}){100}){100}` `a` }}", "memory"),
    ] {
        let problem = render(template, "f", &environment).expect_err(template).to_string();
        assert!(problem.contains(reason), "{template}: {problem}");
    }
    for deep in [
        "{{ if 1 }}".repeat(5000),
        format!("{{{{ {} }}}}", "(".repeat(100_000)),
        format!("{{{{ if 1 }}}}{}", "{{ else if 1 }}".repeat(5000)),
    ] {
        let problem = render(&deep, "f", &environment).expect_err("too deep").to_string();
        assert!(problem.contains("within each other"), "{problem}");
    }
}

#[test]
fn a_whole_file() {
    let template = r#"http:
  routers:
{{- range $i, $name := list "web" "api" }}
    {{ $name }}:
      rule: Host(`{{ $name }}.{{ env "DOMAIN" }}`)
      service: {{ $name }}
{{- end }}
  services:
    web:
      loadBalancer:
        servers:
{{- range splitList "," (env "BACKENDS") }}
          - url: {{ printf "http://%s:%d" . 80 | quote }}
{{- end }}
"#;
    let expected = r#"http:
  routers:
    web:
      rule: Host(`web.example.org`)
      service: web
    api:
      rule: Host(`api.example.org`)
      service: api
  services:
    web:
      loadBalancer:
        servers:
          - url: "http://10.0.0.1:80"
          - url: "http://10.0.0.2:80"
"#;
    check(template, expected);
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,60}|(\\{\\{|\\}\\}|- | -|[$.|()a-c0-9\"`', =:+-]|if |end|range |with |else|define |\\n){0,60}") {
        let _ = render(&text, "f", &environment);
    }

    #[test]
    fn no_call_panics(index in 0usize..400, arguments in proptest::collection::vec(
        prop_oneof![Just("1"), Just("-1"), Just("0"), Just("1.5"), Just("`é,b`"), Just("``"), Just("nil"), Just("true"),
            Just("(list 1 `é` nil)"), Just("(list)"), Just("(dict `a` 1)"), Just("`%5.1x`"), Just("`[`"),
            Just("9223372036854775807"), Just("-9223372036854775808")], 0..4))
    {
        let names = functions::names();
        let name = names[index % names.len()];
        let _ = render(&format!("{{{{ {name} {} }}}}", arguments.join(" ")), "f", &environment);
    }
}
