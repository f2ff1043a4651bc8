//! `ram-run serve`: the model behind HTTP.
use super::{
    args::{Args, ServeArgs, Think},
    open, progress, prompt, renderer,
};
use crate::cli::{Error, note};
use ram_run::{Engine, Request, Sampling, Template, files, size};
use ram_server::{Options, Served, Server};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::{Arc, mpsc::sync_channel},
    time::Duration,
};

/// Bytes of a request for each token of context, and in all: what is longer does not fit the context either.
const BODY_PER_TOKEN: usize = 64;
const BODY: std::ops::RangeInclusive<usize> = 256 << 10..=16 << 20;

/// Serves until the process is asked to end.
pub fn run(args: &Args, a: &ServeArgs) -> Result<(), Error> {
    let keys = keys(a)?;
    let addresses = addresses(a, &keys)?;
    let mut request = args.request()?;
    (request.sequences, request.kv_tokens) = (a.parallel, a.kv_tokens);
    // The port before anything that takes its time: that it is taken must not be said after minutes. What a body may have depends on the
    // context, which the checkpoint says.
    let body = |context: usize| context.saturating_mul(BODY_PER_TOKEN).clamp(*BODY.start(), *BODY.end());
    let server = Server::bind(Options {
        addresses,
        keys,
        hosts: a.allow_host.clone(),
        origins: a.allow_origin.clone(),
        queue: a.queue,
        queue_timeout: Duration::from_secs(a.queue_timeout),
        ping: Duration::from_secs(a.sse_ping),
        body: body(args.ctx.unwrap_or(4096)),
        strict_model: a.strict_model,
        log: log(args.quiet),
        renderer,
    });
    let server = server.map_err(|e| match e {
        ram_run::Error::Io { path, source } if source.kind() == std::io::ErrorKind::AddrInUse => {
            Error::Failed(format!("{}: another program listens there: take another --port", path.display()))
        }
        other => other.into(),
    })?;
    let places = server.addresses().iter().map(|address| format!("http://{address}")).collect::<Vec<_>>().join(" and ");
    note(&format!("listening at {places}; the model is not ready yet"));
    let loading = server.loading();
    progress::watch(move |what, done| loading(what, done));
    let checkpoint = open::checkpoint(args)?;
    let description = checkpoint.description();
    let context = request.context_for(description);
    // Two whole conversations, or many short ones and what earlier ones began with.
    request.kv_tokens = Some(a.kv_tokens.unwrap_or(context.saturating_mul(2)));
    request.reserved =
        ram_server::reserved_bytes(body(context), description.vocab_size, request.sequences) + Engine::reserved_bytes(description, &request);
    let plan = open::planned(args, &checkpoint, request.clone())?;
    let sampling = a.sampling.over(&Sampling::published(checkpoint.folder())?);
    let model = open::model(args, &checkpoint, &plan)?;
    let template = match &a.chat_template {
        Some(path) => Some(Template::new(files::text(path, 1 << 20)?)),
        None => model.tokenizer.chat_template.clone().map(Template::new),
    };
    let json = serde_json::to_string(&plan).map_err(|e| Error::Failed(e.to_string()))?;
    if !args.quiet {
        note(&about(&request, &plan));
    }
    let id = a.alias.clone().unwrap_or_else(|| name(args, checkpoint.folder()));
    let engine = Engine::start(Arc::new(model))?;
    let ready = format!("{id} is ready at {places}");
    server.serve(Served { engine, id, template, sampling, think: a.think != Think::Off, plan: json });
    note(&ready);
    server.wait();
    Ok(())
}

/// Lines that may wait to be written.
const LINES: usize = 1024;

/// Writes lines in a thread of its own: where nobody reads them, that one waits, and later lines are lost.
fn log(quiet: bool) -> ram_server::Log {
    let (send, lines) = sync_channel::<String>(LINES);
    if !quiet {
        std::thread::spawn(move || lines.iter().for_each(|line| note(&line)));
    }
    Arc::new(move |line| drop(send.try_send(line)))
}

/// Where the memory goes, in a line.
fn about(request: &Request, plan: &ram_run::Plan) -> String {
    let budget = plan.memory.budget.map_or(String::new(), |budget| format!(" of {}", size::show(budget)));
    format!(
        "{:.2} bits per weight; {}{budget}: weights {}, keys and values {} ({} tokens, {} a request, {} requests at once)",
        plan.bits_per_weight,
        size::show(plan.memory.total),
        size::show(plan.weight_bytes),
        size::show(plan.memory.kv_cache),
        plan.kv_tokens,
        plan.context,
        request.sequences,
    )
}

/// The name that clients see: that at the hub, or the folder's.
fn name(args: &Args, folder: &Path) -> String {
    match &args.model {
        Some(name) if !Path::new(name).exists() => name.clone(),
        _ => folder.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned()),
    }
}

/// Those given, and those of a file.
fn keys(a: &ServeArgs) -> Result<Vec<String>, Error> {
    let mut keys = a.api_key.clone();
    if let Some(path) = &a.api_key_file {
        let text = files::text(path, prompt::most(64) as u64)?;
        keys.extend(text.lines().map(str::trim).filter(|key| !key.is_empty()).map(String::from));
        if keys.is_empty() {
            return Err(Error::file(path, "has no key: write one in each line"));
        }
    }
    if keys.iter().any(|key| key.trim().is_empty()) {
        return Err(Error::Usage("--api-key: a key of no letters keeps nobody out".into()));
    }
    Ok(keys)
}

/// Both loopback addresses unless another is asked for, which wants a key.
fn addresses(a: &ServeArgs, keys: &[String]) -> Result<Vec<SocketAddr>, Error> {
    let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let all = a.host.map_or(loopback.to_vec(), |host| vec![host]);
    if let Some(open) = all.iter().find(|host| !host.is_loopback())
        && keys.is_empty()
        && !a.no_auth
    {
        let advice = "give --api-key KEY, --api-key-file FILE or RAM_RUN_API_KEY, or say --no-auth";
        return Err(Error::Usage(format!("--host {open}: whoever reaches this machine could ask it: {advice}")));
    }
    Ok(all.into_iter().map(|host| SocketAddr::new(host, a.port)).collect())
}
