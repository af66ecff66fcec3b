//! The worker process: one model, blocking threads, no runtime.
//!
//! The main thread loads and transcribes. A reader thread receives messages all the time, so that an abort
//! reaches the running chunk and the process exits as soon as the server closes the socket: no worker
//! outlives its server.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use anyhow::{Context, bail};
use bytes::BytesMut;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};
use serde::de::DeserializeOwned;
use tokio_util::codec::{Decoder, Encoder, LengthDelimitedCodec};

use crate::engine::Engine;
use crate::engine::protocol::{
    self, Failure, FromWorker, LoadRequest, ToWorker, TranscribeRequest,
};
use crate::engine::whisper::{self, Request};
use crate::engine::{devices, memory};

/// Added to the kernel's out-of-memory score. The kernel should kill a worker, which is replaced within
/// seconds, rather than the server.
const OOM_SCORE_ADJUSTMENT: &str = "500";

/// Marks that no chunk is running; chunk numbers start at 0.
const NO_CHUNK: u64 = u64::MAX;

/// Runs the worker until its server closes the socket on standard input.
///
/// # Errors
/// Standard input is not a socket: only the server starts this command.
pub fn run() -> anyhow::Result<()> {
    let socket = server_socket().context(
        "only the server starts `uttera-stt worker`, with a socket as its standard input",
    )?;
    // Best effort: without /proc the default score remains.
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJUSTMENT);
    catch_aborts()?;
    let mut server = Server {
        socket: socket.try_clone()?,
        codec: protocol::codec(),
    };
    server.send(&FromWorker::Hello {
        version: protocol::VERSION,
    });
    let aborted = Arc::new(Aborted::default());
    let (work, inbox) = mpsc::channel();
    let for_reader = Arc::clone(&aborted);
    std::thread::Builder::new()
        .name("reader".to_owned())
        .spawn(move || receive(socket, &work, &for_reader))?;
    serve(&inbox, &mut server, &aborted)
}

/// Which chunk is running, and whether to abort it.
#[derive(Debug)]
struct Aborted {
    running: AtomicU64,
    flag: AtomicBool,
}

impl Default for Aborted {
    fn default() -> Self {
        Self {
            running: AtomicU64::new(NO_CHUNK),
            flag: AtomicBool::new(false),
        }
    }
}

fn server_socket() -> anyhow::Result<UnixStream> {
    let stdin = std::io::stdin().as_fd().try_clone_to_owned()?;
    let socket = UnixStream::from(stdin);
    socket
        .peer_addr()
        .context("standard input is not a socket")?;
    Ok(socket)
}

/// The sending half of the socket to the server.
struct Server {
    socket: UnixStream,
    codec: LengthDelimitedCodec,
}

impl Server {
    /// Sends a message. If the server has closed the socket, the process exits.
    fn send(&mut self, message: &FromWorker) {
        let mut frame = BytesMut::new();
        let sent = protocol::encode(message)
            .and_then(|bytes| self.codec.encode(bytes, &mut frame))
            .and_then(|()| self.socket.write_all(&frame));
        if let Err(error) = sent {
            eprintln!("cannot send to the server: {error}");
            end_now(1);
        }
    }
}

/// The reader thread: passes work on, handles aborts, and ends the process when the socket closes.
fn receive(socket: UnixStream, work: &mpsc::Sender<ToWorker>, aborted: &Aborted) {
    let mut frames = FrameReader::new(socket);
    loop {
        match frames.next::<ToWorker>() {
            Ok(Some(ToWorker::Abort { id })) => {
                if aborted.running.load(Ordering::Acquire) == id {
                    aborted.flag.store(true, Ordering::Release);
                }
            }
            Ok(Some(ToWorker::Transcribe(request))) => {
                aborted.flag.store(false, Ordering::Release);
                aborted.running.store(request.id, Ordering::Release);
                if work.send(ToWorker::Transcribe(request)).is_err() {
                    end_now(1);
                }
            }
            Ok(Some(message @ ToWorker::Load(_))) => {
                if work.send(message).is_err() {
                    end_now(1);
                }
            }
            Ok(None) => end_now(0),
            Err(error) => {
                eprintln!("invalid message from the server: {error}");
                end_now(1);
            }
        }
    }
}

fn serve(
    inbox: &mpsc::Receiver<ToWorker>,
    server: &mut Server,
    aborted: &Aborted,
) -> anyhow::Result<()> {
    let Ok(ToWorker::Load(load)) = inbox.recv() else {
        bail!("the first message is not a model to load");
    };
    let loaded = device_of(load.gpu).and_then(|device| Ok((load_model(&load)?, device)));
    let (mut model, device) = match loaded {
        Ok(loaded) => loaded,
        Err(reason) => {
            server.send(&FromWorker::LoadFailed {
                reason,
                out_of_memory: memory::was_short(),
            });
            end_now(1);
        }
    };
    server.send(&FromWorker::Loaded {
        multilingual: model.is_multilingual(),
        device,
    });
    while let Ok(message) = inbox.recv() {
        let ToWorker::Transcribe(request) = message else {
            bail!("the server sent a second model to load");
        };
        let answer = transcribe(&mut model, request, server, &aborted.flag);
        aborted.running.store(NO_CHUNK, Ordering::Release);
        server.send(&answer);
    }
    Ok(())
}

/// The name of the GPU with this index. Without one, whisper.cpp would compute on the CPU and say nothing.
fn device_of(gpu: Option<u32>) -> Result<String, String> {
    gpu.map_or_else(|| Ok("CPU".to_owned()), devices::title_of)
}

fn load_model(load: &LoadRequest) -> Result<Engine, String> {
    let options = whisper::Options {
        threads: load.threads,
        gpu: load.gpu,
        beam_size: load.beam_size,
        ..whisper::Options::default()
    };
    Engine::load(&load.path, load.engine, options)
}

fn transcribe(
    model: &mut Engine,
    request: TranscribeRequest,
    server: &mut Server,
    abort: &AtomicBool,
) -> FromWorker {
    let id = request.id;
    memory::forget();
    let result = protocol::bytes_to_samples(&request.audio)
        .map_err(Failure::Engine)
        .and_then(|samples| {
            let request = Request {
                samples,
                task: request.task,
                language: request.language,
                languages: request.languages,
                likely_language: request.likely_language,
                prompt: request.prompt,
                temperature: request.temperature,
            };
            model.transcribe(request, abort, &mut |code, probability| {
                server.send(&FromWorker::Language {
                    id,
                    code: code.to_owned(),
                    probability,
                });
            })
        });
    match result {
        // Whisper's caches may be incomplete, and the chunk is not the cause. Another worker transcribes it
        // once memory is available.
        Err(Failure::Engine(reason)) if memory::was_short() => {
            eprintln!("out of memory: {reason}");
            end_now(protocol::OUT_OF_MEMORY_EXIT);
        }
        Ok(transcript) => FromWorker::Done { id, transcript },
        Err(failure) => FromWorker::Failed { id, failure },
    }
}

/// Distinguishes an abort or a crash for lack of memory, which says nothing about the audio, from any other. ggml
/// crashes if a driver cannot allocate what it needs for a computation.
fn catch_aborts() -> nix::Result<()> {
    for (signal, handler) in [
        (Signal::SIGABRT, on_abort as extern "C" fn(i32)),
        (Signal::SIGSEGV, on_crash),
    ] {
        let action = SigAction::new(
            SigHandler::Handler(handler),
            SaFlags::SA_RESETHAND | SaFlags::SA_ONSTACK,
            SigSet::empty(),
        );
        // SAFETY: the handlers do only what a signal handler may: they read an atomic, end the process
        // or raise a signal.
        unsafe { sigaction(signal, &action) }?;
    }
    // SAFETY: the function only remembers the handler, which lives as long as the process.
    unsafe { set_new_handler(Some(on_failed_allocation)) };
    Ok(())
}

unsafe extern "C" {
    /// `std::set_new_handler` of the C++ library that whisper links.
    #[link_name = "_ZSt15set_new_handlerPFvvE"]
    fn set_new_handler(handler: Option<extern "C" fn()>) -> Option<extern "C" fn()>;
}

/// C++ calls this instead of throwing `std::bad_alloc`, which would end in an abort.
extern "C" fn on_failed_allocation() {
    end_now(protocol::OUT_OF_MEMORY_EXIT);
}

extern "C" fn on_abort(_signal: i32) {
    if memory::was_short() {
        end_now(protocol::OUT_OF_MEMORY_EXIT);
    }
    // The handler has been reset, so this ends the process with the original signal.
    let _ = raise(Signal::SIGABRT);
}

extern "C" fn on_crash(_signal: i32) {
    if memory::was_short() {
        end_now(protocol::OUT_OF_MEMORY_EXIT);
    }
    // The handler has been reset, so this ends the process with the original signal.
    let _ = raise(Signal::SIGSEGV);
}

/// Ends the process without running destructors, which would race with whisper's threads.
fn end_now(code: i32) -> ! {
    // SAFETY: `_exit` takes any integer and does not return; nothing needs flushing, since standard error is
    // unbuffered.
    unsafe { nix::libc::_exit(code) }
}

/// Blocking reads of whole frames.
struct FrameReader<R> {
    source: R,
    buffer: BytesMut,
    codec: LengthDelimitedCodec,
}

impl<R: Read> FrameReader<R> {
    fn new(source: R) -> Self {
        Self {
            source,
            buffer: BytesMut::new(),
            codec: protocol::codec(),
        }
    }

    /// The next message; `None` when the other end is closed, even in the middle of a frame.
    fn next<T: DeserializeOwned>(&mut self) -> std::io::Result<Option<T>> {
        loop {
            if let Some(frame) = self.codec.decode(&mut self.buffer)? {
                return protocol::decode(&frame).map(Some);
            }
            let mut block = [0_u8; 16 * 1024];
            match self.source.read(&mut block) {
                Ok(0) => return Ok(None),
                Ok(read) => self.buffer.extend_from_slice(&block[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives one byte at a time.
    struct Dribble<'a>(&'a [u8]);

    impl Read for Dribble<'_> {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            let Some((first, rest)) = self.0.split_first() else {
                return Ok(0);
            };
            into[0] = *first;
            self.0 = rest;
            Ok(1)
        }
    }

    #[test]
    fn frames_that_dribble_in_arrive_whole_and_a_cut_one_is_the_end() {
        let mut bytes = BytesMut::new();
        for id in 0..3 {
            let message = protocol::encode(&ToWorker::Abort { id }).expect("encodes");
            protocol::codec()
                .encode(message, &mut bytes)
                .expect("frames");
        }
        let mut frames = FrameReader::new(Dribble(&bytes[..bytes.len() - 1]));
        for expected in 0..2 {
            let message = frames.next::<ToWorker>().expect("reads");
            assert!(matches!(message, Some(ToWorker::Abort { id }) if id == expected));
        }
        assert!(frames.next::<ToWorker>().expect("reads").is_none());
    }
}
