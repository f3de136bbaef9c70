//! Field and label selectors, as `fieldSelector` and `labelSelector` carry them.

use std::collections::BTreeMap;
use std::str::FromStr;

use k8s_openapi::api::coordination::v1::Lease;

use super::names;

/// What a list, a watch or a collection delete is about: a namespace or all, and the selectors.
#[derive(Default)]
pub struct Selector {
    pub namespace: Option<String>,
    fields: Vec<FieldTerm>,
    labels: Labels,
}

/// A label selector: `a=b, c!=d, e in (f,g), h notin (i), j, !k, l>1`.
#[derive(Clone, Debug, Default)]
pub struct Labels(Vec<LabelTerm>);

struct FieldTerm {
    field: Field,
    value: String,
    equal: bool,
}

#[derive(Clone, Copy)]
enum Field {
    Name,
    Namespace,
}

#[derive(Clone, Debug)]
struct LabelTerm {
    key: String,
    test: LabelTest,
}

#[derive(Clone, Debug)]
enum LabelTest {
    Exists,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
    GreaterThan(i64),
    LessThan(i64),
}

impl Selector {
    pub fn new(namespace: Option<String>, fields: &str, labels: &str) -> Result<Selector, String> {
        Ok(Selector { namespace, fields: parse_fields(fields)?, labels: labels.parse()? })
    }

    pub fn matches(&self, lease: &Lease) -> bool {
        let name = lease.metadata.name.as_deref().unwrap_or_default();
        let namespace = lease.metadata.namespace.as_deref().unwrap_or_default();
        let in_namespace = self.namespace.as_deref().is_none_or(|wanted| wanted == namespace);
        let fields = self.fields.iter().all(|term| {
            let value = match term.field {
                Field::Name => name,
                Field::Namespace => namespace,
            };
            (value == term.value) == term.equal
        });
        in_namespace && fields && self.labels.match_all(lease.metadata.labels.as_ref())
    }
}

fn parse_fields(text: &str) -> Result<Vec<FieldTerm>, String> {
    let terms = text.split(',').map(str::trim).filter(|term| !term.is_empty());
    terms
        .map(|term| {
            let (field, value, equal) = if let Some((field, value)) = term.split_once("!=") {
                (field, value, false)
            } else if let Some((field, value)) = term.split_once("==") {
                (field, value, true)
            } else if let Some((field, value)) = term.split_once('=') {
                (field, value, true)
            } else {
                return Err(format!("invalid selector: '{text}'; can't understand '{term}'"));
            };
            let field = match field {
                "metadata.name" => Field::Name,
                "metadata.namespace" => Field::Namespace,
                other => {
                    return Err(format!(
                        "\"{other}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
                    ));
                }
            };
            Ok(FieldTerm { field, value: value.to_owned(), equal })
        })
        .collect()
}

impl Labels {
    pub fn match_all(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        self.0.iter().all(|term| term.matches(labels))
    }
}

impl FromStr for Labels {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_labels(text).map(Labels)
    }
}

impl LabelTerm {
    fn matches(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        let value = labels.and_then(|labels| labels.get(&self.key));
        match &self.test {
            LabelTest::Exists => value.is_some(),
            LabelTest::Absent => value.is_none(),
            LabelTest::In(values) => value.is_some_and(|value| values.contains(value)),
            // A label that is not there is not among the values either.
            LabelTest::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            LabelTest::GreaterThan(bound) => number(value).is_some_and(|value| value > *bound),
            LabelTest::LessThan(bound) => number(value).is_some_and(|value| value < *bound),
        }
    }
}

fn number(value: Option<&String>) -> Option<i64> {
    value?.parse().ok()
}

fn parse_labels(text: &str) -> Result<Vec<LabelTerm>, String> {
    let mut terms = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        if let Some(found) = rest.chars().next().filter(|first| "=(),<>".contains(*first)) {
            return Err(format!("found '{found}', expected: !, identifier, or 'end of string'"));
        }
        let (term, after) = parse_label_term(rest).map_err(|why| format!("unable to parse requirement: {why}"))?;
        terms.push(term);
        rest = after.trim_start();
        if let Some(after_comma) = rest.strip_prefix(',') {
            rest = after_comma.trim_start();
            if rest.is_empty() {
                return Err("found '', expected: identifier after ','".to_owned());
            }
        } else if !rest.is_empty() {
            let found = word(rest).0;
            return Err(format!("found '{found}', expected: ',' or 'end of string'"));
        }
    }
    Ok(terms)
}

fn parse_label_term(text: &str) -> Result<(LabelTerm, &str), String> {
    let (negated, text) = match text.strip_prefix('!') {
        Some(rest) => (true, rest.trim_start()),
        None => (false, text),
    };
    let (key, rest) = word(text);
    if key.is_empty() {
        let found = text.chars().next().map(String::from).unwrap_or_default();
        return Err(format!("found '{found}', expected: !, identifier, or 'end of string'"));
    }
    if let Some(why) = names::label_key(key).first() {
        return Err(format!("<nil>: Invalid value: \"{key}\": {why}"));
    }
    let key = key.to_owned();
    let rest = rest.trim_start();
    if negated {
        return Ok((LabelTerm { key, test: LabelTest::Absent }, rest));
    }
    let (test, rest) = parse_label_test(&key, rest)?;
    Ok((LabelTerm { key, test }, rest))
}

fn parse_label_test<'a>(key: &str, rest: &'a str) -> Result<(LabelTest, &'a str), String> {
    if rest.is_empty() || rest.starts_with(',') {
        return Ok((LabelTest::Exists, rest));
    }
    for (operator, equal) in [("==", true), ("!=", false), ("=", true)] {
        if let Some(rest) = rest.strip_prefix(operator) {
            let (value, rest) = word(rest.trim_start());
            let values = vec![label_value(key, value)?];
            let test = if equal { LabelTest::In(values) } else { LabelTest::NotIn(values) };
            return Ok((test, rest));
        }
    }
    for (operator, greater) in [(">", true), ("<", false)] {
        if let Some(rest) = rest.strip_prefix(operator) {
            let (value, rest) = word(rest.trim_start());
            let bound = value.parse().map_err(|_| {
                format!("values[0]: Invalid value: \"{value}\": for 'Gt', 'Lt' operators, the value must be an integer")
            })?;
            let test = if greater { LabelTest::GreaterThan(bound) } else { LabelTest::LessThan(bound) };
            return Ok((test, rest));
        }
    }
    match word(rest) {
        ("in", rest) => value_set(key, rest).map(|(values, rest)| (LabelTest::In(values), rest)),
        ("notin", rest) => value_set(key, rest).map(|(values, rest)| (LabelTest::NotIn(values), rest)),
        (found, _) => Err(format!("found '{found}', expected: in, notin, =, ==, !=, gt, lt")),
    }
}

fn value_set<'a>(key: &str, rest: &'a str) -> Result<(Vec<String>, &'a str), String> {
    let rest = rest.trim_start();
    let Some(rest) = rest.strip_prefix('(') else {
        return Err(format!("found '{}' expected: '('", word(rest).0));
    };
    let Some((inside, after)) = rest.split_once(')') else {
        return Err("found '', expected: ',' or ')'".to_owned());
    };
    let values = inside.split(',').map(|value| label_value(key, value.trim()));
    Ok((values.collect::<Result<_, _>>()?, after))
}

fn label_value(key: &str, value: &str) -> Result<String, String> {
    match names::label_value(value).first() {
        None => Ok(value.to_owned()),
        Some(why) => Err(format!("values[0][{key}]: Invalid value: \"{value}\": {why}")),
    }
}

/// The text up to the next character that means something to the selector's grammar.
fn word(text: &str) -> (&str, &str) {
    let end =
        text.find(|character: char| character.is_whitespace() || "=!(),<>".contains(character)).unwrap_or(text.len());
    text.split_at(end)
}
