//! Settings that are not typed: an alias, variables, the user's and the system's file. Each becomes what could have been typed, so that a wrong
//! one is refused in the same words.
use super::{
    args::{Args, ConfigArgs, ConfigCommand},
    flags, print,
};
use crate::cli::{Error, note};
use clap::{Arg, ArgAction, ArgMatches, Command, parser::ValueSource};
use ram_run::files;
use serde_json::json;
use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fmt::Write,
    path::{Path, PathBuf},
};
use toml::{Table, Value};

/// Variables that are no option's: RAM_RUN_CACHE is where packed weights lie. The last are of tests.
const OTHERS: [&str; 11] = ["ISA", "CACHE", "UI_DIR", "SHARED", "REAL", "BIG", "PYTHON", "CLIENTS", "NODE", "LOAD_SECONDS", "PAGE"];
/// Commands without settings.
const NONE: [&str; 4] = ["config", "cache", "completions", "man"];
/// The section of what holds for all commands, and that of aliases.
const DEFAULTS: &str = "defaults";
const ALIAS: &str = "alias";

/// An option's value that was not typed.
struct Setting {
    id: String,
    /// As it would have been typed.
    words: Vec<String>,
    origin: String,
}

/// A file of settings.
struct File {
    path: PathBuf,
    table: Table,
}

/// The name of an option's variable.
fn variable(id: &str) -> String {
    match id {
        "cache" => "RAM_RUN_KEEP".into(),
        _ => format!("RAM_RUN_{}", id.to_uppercase()),
    }
}

/// Options of a command that can be set: those with a long name, its own and those that stand anywhere.
fn options(root: &Command, command: &str) -> Vec<Arg> {
    let own = root.find_subcommand(command).into_iter().flat_map(Command::get_arguments);
    let all = own.filter(|a| a.get_long().is_some() && !["help", "version", "json", "config_file", "no_config"].contains(&a.get_id().as_str()));
    all.filter(|a| !a.is_global_set() || flags::shown_on(a.get_id().as_str(), command)).cloned().collect()
}

/// The user's folder of settings, and the system's, as XDG's base directory specification has them.
fn places() -> Vec<PathBuf> {
    let var = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    let user = var("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| Some(Path::new(&var("HOME")?).join(".config")));
    let system = var("XDG_CONFIG_DIRS").map_or_else(|| vec!["/etc/xdg".into()], |all| env::split_paths(&all).collect());
    user.into_iter().chain(system).map(|folder| folder.join("ram-run/config.toml")).collect()
}

/// The files there are, the user's first.
fn files(only: Option<&Path>, none: bool) -> Result<Vec<File>, Error> {
    let places = match only {
        _ if none => Vec::new(),
        Some(path) => vec![path.to_path_buf()],
        None => places().into_iter().filter(|path| path.is_file()).collect(),
    };
    places.into_iter().map(|path| read(&path)).collect()
}

fn read(path: &Path) -> Result<File, Error> {
    let text = files::text(path, 1 << 20)?;
    let bad = |why: &str| Error::file(path, format!("is no configuration ({})", why.trim().lines().collect::<Vec<_>>().join("; ")));
    let table: Table = text.parse().map_err(|e: toml::de::Error| bad(e.message()))?;
    let root = flags::command();
    let commands: Vec<String> = root.get_subcommands().map(|sub| sub.get_name().to_string()).filter(|name| !NONE.contains(&name.as_str())).collect();
    let known = |command: &str| options(&root, command).iter().map(|a| a.get_id().to_string()).collect::<Vec<_>>();
    let all: Vec<String> = commands.iter().flat_map(|command| known(command)).collect();
    let check = |section: &str, value: &Value, known: &[String]| -> Result<(), Error> {
        let keys = value.as_table().ok_or_else(|| bad(&format!("{section} is no section")))?;
        match keys.keys().find(|key| !known.contains(&key.replace('-', "_"))) {
            Some(key) => Err(bad(&format!("[{section}] has a key {key}{}", nearest(&key.replace('-', "_"), known.iter())))),
            None => Ok(()),
        }
    };
    for (section, value) in &table {
        match section.as_str() {
            DEFAULTS => check(section, value, &all)?,
            ALIAS => {
                let aliases = value.as_table().ok_or_else(|| bad("alias is no section"))?;
                aliases.iter().try_for_each(|(name, value)| check(&format!("{ALIAS}.{name}"), value, &all))?;
            }
            command if commands.iter().any(|own| own == command) => check(section, value, &known(command))?,
            other => {
                let names = commands.iter().cloned().chain([DEFAULTS.to_string(), ALIAS.to_string()]).collect::<Vec<_>>();
                return Err(bad(&format!("there is no section [{other}]{}", nearest(other, names.iter()))));
            }
        }
    }
    Ok(File { path: path.into(), table })
}

/// A word that was perhaps meant.
fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a String>) -> String {
    let best = known.map(|name| (strsim::jaro_winkler(word, name), name)).max_by(|a, b| a.0.total_cmp(&b.0));
    best.filter(|(like, _)| *like > 0.8).map_or(String::new(), |(_, name)| format!(", perhaps {name} is meant"))
}

/// A value as it would be typed.
fn words(option: &Arg, value: &Value, origin: &str) -> Result<Vec<String>, Error> {
    let name = format!("--{}", option.get_long().unwrap_or_default());
    let takes = option.get_action().takes_values();
    let one = |value: &Value| match value {
        Value::String(text) => Ok(format!("{name}={text}")),
        Value::Integer(n) => Ok(format!("{name}={n}")),
        Value::Float(n) => Ok(format!("{name}={n}")),
        _ => Err(Error::Usage(format!("{origin}: {name} is a text or a number"))),
    };
    match value {
        Value::Boolean(on) if !takes => Ok(if *on { vec![name] } else { Vec::new() }),
        _ if !takes => Err(Error::Usage(format!("{origin}: {name} is true or false"))),
        Value::Array(all) if matches!(option.get_action(), ArgAction::Append) => all.iter().map(one).collect(),
        other => one(other).map(|word| vec![word]),
    }
}

/// What variables say of an option.
fn from_variable(option: &Arg) -> Result<Option<Setting>, Error> {
    let name = variable(option.get_id().as_str());
    let Some(value) = env::var_os(&name).filter(|value| !value.is_empty()) else { return Ok(None) };
    let value = value.into_string().map_err(|_| Error::Usage(format!("{name} is no text")))?;
    let value = match (option.get_action().takes_values(), value.to_lowercase().as_str()) {
        (true, _) => Value::String(value),
        (false, "1" | "true" | "on" | "yes") => Value::Boolean(true),
        (false, "0" | "false" | "off" | "no") => Value::Boolean(false),
        _ => return Err(Error::Usage(format!("{name} is '{value}': it must be true or false"))),
    };
    Ok(Some(Setting { id: option.get_id().to_string(), words: words(option, &value, &name)?, origin: name }))
}

/// What is set for a command, and not typed: what comes first holds, and nothing that contradicts what is typed or holds already.
fn settings(root: &Command, command: &str, typed: &[&str], files: &[File], alias: Option<&str>) -> Result<Vec<Setting>, Error> {
    let options = options(root, command);
    let mut found: Vec<Setting> = Vec::new();
    let mut layers: Vec<Vec<Setting>> = Vec::new();
    let of = |table: &Table, origin: &str| -> Result<Vec<Setting>, Error> {
        let mut all = Vec::new();
        for option in &options {
            let id = option.get_id().as_str();
            if let Some(value) = table.get(id).or_else(|| table.get(&id.replace('_', "-"))) {
                all.push(Setting { id: id.into(), words: words(option, value, origin)?, origin: origin.into() });
            }
        }
        Ok(all)
    };
    let section = |file: &File, path: &[&str]| path.iter().try_fold(&file.table, |table, key| table.get(*key)?.as_table()).cloned();
    for file in files {
        if let Some((name, table)) = alias.and_then(|name| Some((name, section(file, &[ALIAS, name])?))) {
            layers.push(of(&table, &format!("[{ALIAS}.{name}] of {}", file.path.display()))?);
        }
    }
    layers.push(options.iter().map(from_variable).filter_map(Result::transpose).collect::<Result<_, _>>()?);
    for file in files {
        for name in [command, DEFAULTS] {
            if let Some(table) = section(file, &[name]) {
                layers.push(of(&table, &format!("[{name}] of {}", file.path.display()))?);
            }
        }
    }
    let sub = root.find_subcommand(command).unwrap_or(root);
    // Said of one of two options, it holds for both.
    let names = |option: &Arg, other: &str| {
        let owners = [root, sub].into_iter().filter(|owner| owner.get_arguments().any(|own| own.get_id() == option.get_id()));
        owners.flat_map(|owner| owner.get_arg_conflicts_with(option)).any(|against| against.get_id() == other)
    };
    let against = |a: &Arg, b: &Arg| names(a, b.get_id().as_str()) || names(b, a.get_id().as_str());
    for setting in layers.into_iter().flatten() {
        let Some(option) = options.iter().find(|option| option.get_id().as_str() == setting.id) else { continue };
        // Aliases say the model that is typed.
        let given = typed.contains(&setting.id.as_str()) && !(setting.id == "model" && setting.origin.contains(ALIAS));
        let holds = |id: &str| typed.contains(&id) || found.iter().any(|other| other.id == id && !other.words.is_empty());
        let contradicts = options.iter().any(|other| holds(other.get_id().as_str()) && against(option, other));
        if !given && !contradicts && found.iter().all(|other| other.id != setting.id) {
            found.push(setting);
        }
    }
    Ok(found)
}

/// Names of the options that were typed.
fn typed<'a>(matches: &ArgMatches, options: &'a [Arg]) -> Vec<&'a str> {
    let ids = options.iter().map(|a| a.get_id().as_str());
    ids.filter(|id| matches.try_contains_id(id).is_ok() && matches.value_source(id) == Some(ValueSource::CommandLine)).collect()
}

/// The words of the command line with those that are set elsewhere.
///
/// # Errors
/// Where a file or a variable is not what it should be.
pub fn complete(given: Vec<OsString>) -> Result<Vec<OsString>, Error> {
    // What is no text is refused by whoever reads it next.
    let Ok(words) = given.iter().map(|word| word.clone().into_string()).collect::<Result<Vec<String>, _>>() else { return Ok(given) };
    let root = flags::command();
    // What is wrong with what was typed is said by whoever reads it next.
    let Ok(matches) = flags::command().try_get_matches_from(&words) else { return Ok(given) };
    let Some((command, own)) = matches.subcommand() else { return Ok(given) };
    if NONE.contains(&command) {
        return Ok(given);
    }
    misspelt(&root);
    let files = files(own.get_one::<PathBuf>("config_file").map(PathBuf::as_path), own.get_flag("no_config"))?;
    let options = options(&root, command);
    let model = own.get_one::<String>("model").cloned();
    let alias = model.filter(|name| files.iter().any(|file| file.table.get(ALIAS).and_then(|all| all.get(name)).is_some()));
    let settings = settings(&root, command, &typed(own, &options), &files, alias.as_deref())?;
    let end = words.iter().position(|word| word == "--").unwrap_or(words.len());
    let (mut before, after) = (words[..end].to_vec(), &words[end..]);
    for setting in settings {
        if let (true, Some(name), Some(word)) = (setting.id == "model", &alias, setting.words.first()) {
            let model = word.trim_start_matches("--model=");
            rename(&mut before, name, model);
        } else {
            before.extend(setting.words);
        }
    }
    Ok(before.iter().chain(after).map(OsString::from).collect())
}

/// Puts the model that an alias means where its name was typed.
fn rename(words: &mut [String], alias: &str, model: &str) {
    for at in 0..words.len() {
        let follows = at > 0 && ["-m", "--model"].contains(&words[at - 1].as_str()) && words[at] == alias;
        if follows {
            words[at] = model.into();
        }
        for hangs in ["--model=", "-m"] {
            if words[at].strip_prefix(hangs) == Some(alias) {
                words[at] = format!("--model={model}");
            }
        }
    }
}

/// Says which variables look like settings and are none.
fn misspelt(root: &Command) {
    let commands = root.get_subcommands().map(|sub| sub.get_name().to_string()).collect::<Vec<_>>();
    let mut known: Vec<String> = commands.iter().flat_map(|command| options(root, command)).map(|a| variable(a.get_id().as_str())).collect();
    known.extend(OTHERS.iter().map(|name| format!("RAM_RUN_{name}")));
    let names = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for name in names.filter(|name| name.starts_with("RAM_RUN_") && !known.contains(name)) {
        note(&format!("{name} is set and means nothing{}", nearest(&name, known.iter())));
    }
}

/// `ram-run config`.
pub fn run(args: &Args, a: &ConfigArgs) -> Result<(), Error> {
    let files = files(args.config_file.as_deref(), args.no_config)?;
    match &a.command {
        ConfigCommand::Path => {
            let mut out = String::new();
            for path in args.config_file.iter().cloned().chain(if args.no_config { Vec::new() } else { places() }) {
                let _ = writeln!(out, "{}{}", path.display(), if path.is_file() { "" } else { " (not there)" });
            }
            print(&out)
        }
        ConfigCommand::Aliases => {
            let mut out = String::new();
            for (name, value) in files.iter().filter_map(|file| file.table.get(ALIAS)?.as_table()).flatten() {
                let keys = value.as_table().into_iter().flatten().map(|(key, value)| format!("{key}={value}"));
                let _ = writeln!(out, "{name:<16} {}", keys.collect::<Vec<_>>().join(" "));
            }
            print(&out)
        }
        ConfigCommand::Show { of, json } => {
            let root = flags::command();
            let commands: Vec<String> =
                root.get_subcommands().map(|sub| sub.get_name().to_string()).filter(|name| !NONE.contains(&name.as_str())).collect();
            if let Some(unknown) = of.as_ref().filter(|of| !commands.contains(of)) {
                return Err(Error::Usage(format!("there are no settings of {unknown}{}", nearest(unknown, commands.iter()))));
            }
            let (mut out, mut told) = (String::new(), BTreeMap::new());
            for command in commands.iter().filter(|command| of.as_ref().is_none_or(|of| of == *command)) {
                let set = settings(&root, command, &[], &files, None)?;
                for option in options(&root, command) {
                    let setting = set.iter().find(|setting| setting.id == option.get_id().as_str());
                    let default = option.get_default_values().iter().map(|value| value.to_string_lossy()).collect::<Vec<_>>().join(",");
                    let value = setting.map_or(default, |setting| shown(&option, setting));
                    let origin = setting.map_or("default", |setting| &setting.origin);
                    // All commands have many that say nothing.
                    if of.is_some() || setting.is_some() {
                        let _ = writeln!(out, "{command:<9} {:<16} {value:<24} {origin}", option.get_long().unwrap_or_default());
                    }
                    told.insert(format!("{command}.{}", option.get_id()), json!({"value": value, "origin": origin}));
                }
            }
            print(&if *json { format!("{}\n", json!(told)) } else { out })
        }
    }
}

/// A value as it is shown; a secret is none any more once it is.
fn shown(option: &Arg, setting: &Setting) -> String {
    if option.get_id() == "api_key" {
        return "(hidden)".into();
    }
    if !option.get_action().takes_values() {
        return (!setting.words.is_empty()).to_string();
    }
    setting.words.iter().filter_map(|word| Some(word.split_once('=')?.1)).collect::<Vec<_>>().join(",")
}
