//! The same plan, packed bytes and text: for any number of threads, on every instruction set, every time, and as they were
//! when last looked at. A change that means to change them writes what the failing test prints into `GOLDEN`.
use crate::cli::command;
use ram_models::Weights;
use ram_run::{Checkpoint, Limit, Model, Request, Sampling, Survey, load, plan};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

/// Checkpoint, and of its surveyed plan at 4.25 bits per weight: fingerprint, hash of all packed bytes, hash of 24 greedy tokens.
const GOLDEN: [(&str, &str, u64, u64); 3] = [
    ("tiny-mixtral", "b8c69b5d22068a98", 0x1a0e_36d1_c387_6fe6, 0x736e_7195_2296_ad20),
    ("tiny-qwen2-moe", "0ded57e27e3109aa", 0xb7f8_e751_f5c3_f2fa, 0xd38d_4a72_6151_077c),
    ("tiny-qwen3-moe", "50833bc094836047", 0x5707_f83c_32f6_acd6, 0x46c8_51dc_3974_4241),
];

const PROMPT: &str = "The town of";

/// Weight bytes at 4.25 bits per weight.
fn bytes(checkpoint: &Checkpoint) -> u64 {
    checkpoint.specs().iter().map(|s| s.shape.iter().product::<usize>() as u64).sum::<u64>() * 17 / 32
}

fn hash<'a>(parts: impl Iterator<Item = &'a [u8]>) -> u64 {
    let mut hash = Xxh3::new();
    parts.for_each(|part| hash.update(part));
    hash.digest()
}

/// The bundled one is there in every clone.
pub fn folder(name: &str) -> Option<PathBuf> {
    let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name);
    if bundled.is_dir() { Some(bundled) } else { crate::parity::shared().map(|shared| shared.join("models").join(name)) }
}

/// Fingerprint of the plan, hash of the packed bytes, hash of the text.
fn look(folder: &Path) -> (String, u64, u64) {
    let checkpoint = Checkpoint::open(folder).unwrap();
    let request = Request {
        limit: Limit::Weights(bytes(&checkpoint)),
        survey: Some(Survey::measure(&checkpoint, &|_| ()).unwrap().into()),
        ..Request::default()
    };
    let plan = plan(&checkpoint, &request, &|_| ()).unwrap();
    let loaded = load(&checkpoint, &plan, &|_| ()).unwrap();
    let matrices: Vec<_> = checkpoint.specs().iter().filter(|s| s.kind.is_matrix()).map(|s| loaded.matrix(s).unwrap()).collect();
    let packed = hash(matrices.iter().map(|m| m.bytes()));
    let model = Model::new(&checkpoint, &plan, &loaded).unwrap();
    let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
    let prompt = model.tokenizer.encode(PROMPT, true).unwrap();
    let mut session = model.session(greedy).unwrap();
    session.prompt(&prompt).unwrap();
    let tokens = model.generate(&mut session, 24).collect::<Result<Vec<u32>, _>>().unwrap();
    let text = hash(tokens.iter().map(|t| t.to_le_bytes()).collect::<Vec<_>>().iter().map(|b| b.as_slice()));
    (plan.fingerprint, packed, text)
}

#[test]
fn threads_change_nothing_and_nothing_has_changed() {
    let mut wrong = Vec::new();
    for (name, plan, packed, text) in GOLDEN {
        let Some(folder) = folder(name) else { continue };
        for threads in [1, 2, 7, 7] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let found = pool.install(|| look(&folder));
            if found != (plan.to_string(), packed, text) {
                wrong.push(format!("{threads} threads: (\"{name}\", \"{}\", {:#x}, {:#x}),", found.0, found.1, found.2));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn instruction_sets_change_nothing() {
    for (name, ..) in GOLDEN {
        let Some(folder) = folder(name) else { continue };
        let folder = folder.to_str().unwrap();
        let run = |isa: &str, args: &[&str]| {
            let mut command = command(&[&["--model", folder, "--weights", "6500000"], args].concat());
            command.env("RAM_RUN_ISA", isa).output().unwrap()
        };
        // One survey is enough: without SIMD it takes a while.
        let plan = ["plan", "--json", "--no-survey"];
        let text = ["generate", PROMPT, "--temp", "0", "--max-tokens", "8", "--no-survey"];
        let eval = ["eval-ppl", "--text", "README.md", "--window", "64", "--max-windows", "2"];
        for args in [&plan[..], &text, &eval] {
            let scalar = run("scalar", args);
            assert!(scalar.status.success(), "{name} {args:?}: {}", String::from_utf8_lossy(&scalar.stderr));
            for isa in ["avx2", "avxvnni", "avx512"] {
                let out = run(isa, args);
                // 2 where the processor lacks it.
                if out.status.code() == Some(2) {
                    continue;
                }
                if args.contains(&"eval-ppl") {
                    // The last line tells the peak memory, which differs.
                    let first = |o: &[u8]| String::from_utf8_lossy(o).lines().next().unwrap_or_default().to_string();
                    assert_eq!(first(&out.stdout), first(&scalar.stdout), "{name} {isa}");
                } else {
                    assert_eq!(out.stdout, scalar.stdout, "{name} {isa} {args:?}");
                }
            }
        }
    }
}
