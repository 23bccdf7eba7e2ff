//! The Python module `nanochat_pl._rustbpe`: all that knows Python, and no algorithm.
//!
//! Work happens without the interpreter's lock, on threads of this module's own: a process made by `fork` has
//! none of its parent's threads, so the pool is made anew where the process id has changed. Texts are `str`, or
//! `bytes` that need not be UTF-8; a lone surrogate in a `str` is read as U+FFFD, as other tokenizers do.

use std::borrow::Cow;
use std::process;
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyString};
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::encoder::Bpe;
use crate::error::Error;
use crate::pretokenize::Splitter;
use crate::trainer::{PretokenCounts, tokens_of_merges};

const BUFFER_BYTES: usize = 64 << 20;
const MERGES_PER_SIGNAL_CHECK: usize = 256;

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        PyValueError::new_err(error.to_string())
    }
}

/// Learn a byte-level BPE from an iterator of texts.
///
/// Args:
///     texts: any iterable of str; it is consumed in buffers and never held as a whole.
///     vocab_size: single bytes and merges together, without special tokens; at least 256.
///     pattern: regular expression that cuts text into the pieces no merge crosses.
///     buffer_size: texts taken before they are counted in parallel; a buffer also ends at 64 MiB of text.
///
/// Returns:
///     The Bpe. It has fewer tokens than asked for where the texts support no more merges.
///
/// Raises:
///     ValueError: the pattern or vocab_size cannot work.
///     TypeError: a text is neither str nor bytes in UTF-8.
#[pyfunction]
#[pyo3(signature = (texts, vocab_size, pattern, buffer_size = 8192))]
fn train_from_iterator(
    py: Python<'_>,
    texts: &Bound<'_, PyAny>,
    vocab_size: usize,
    pattern: &str,
    buffer_size: usize,
) -> PyResult<PyBpe> {
    if vocab_size < crate::BYTES {
        return Err(Error::VocabularyTooSmall(vocab_size).into());
    }
    let pool = thread_pool()?;
    let splitter = Splitter::new(pattern)?;
    let mut counts = PretokenCounts::new(&splitter);
    let mut texts = texts.try_iter()?;
    loop {
        let buffer = next_buffer(&mut texts, buffer_size)?;
        if buffer.is_empty() {
            break;
        }
        py.detach(|| pool.install(|| counts.add(&buffer)))?;
        py.check_signals()?;
    }
    let mut signal = None;
    let merges = py.detach(|| counts.learn_merges(vocab_size, &mut until_signal(&mut signal)));
    if let Some(signal) = signal {
        return Err(signal);
    }
    Ok(PyBpe { bpe: Bpe::new(tokens_of_merges(&merges?), pattern)? })
}

/// Take texts until the buffer is full; empty when there are none left.
fn next_buffer(texts: &mut Bound<'_, pyo3::types::PyIterator>, buffer_size: usize) -> PyResult<Vec<String>> {
    let mut buffer = Vec::new();
    let mut bytes = 0;
    while buffer.len() < buffer_size.max(1) && bytes < BUFFER_BYTES {
        let Some(text) = texts.next() else { break };
        let text = text?;
        let text = String::from_utf8(bytes_of(&text)?.into_owned())
            .map_err(|error| PyTypeError::new_err(format!("a text to train on must be UTF-8: {error}")))?;
        bytes += text.len();
        buffer.push(text);
    }
    Ok(buffer)
}

/// A check that fails once Python has a signal to raise, such as Ctrl-C; the exception is put in `signal`.
fn until_signal(signal: &mut Option<PyErr>) -> impl FnMut() -> Result<(), Error> {
    let mut calls = 0_usize;
    move || {
        calls += 1;
        if calls.is_multiple_of(MERGES_PER_SIGNAL_CHECK)
            && let Err(raised) = Python::attach(|py| py.check_signals())
        {
            *signal = Some(raised);
            return Err(Error::Interrupted);
        }
        Ok(())
    }
}

/// A byte-level BPE: a vocabulary without special tokens, and a split pattern.
///
/// Args:
///     tokens: bytes of each id in order; the id is the token's rank. All 256 single bytes must be among them.
///     pattern: regular expression that cuts text into the pieces no merge crosses.
///
/// Raises:
///     ValueError: the pattern is invalid, a single byte is missing, a token is empty or there twice.
#[pyclass(frozen, name = "Bpe", module = "nanochat_pl._rustbpe")]
struct PyBpe {
    bpe: Bpe,
}

#[pymethods]
impl PyBpe {
    #[new]
    fn new(tokens: Vec<Vec<u8>>, pattern: &str) -> PyResult<Self> {
        Ok(Self { bpe: Bpe::new(tokens, pattern)? })
    }

    /// Number of tokens, without special ones.
    #[getter]
    fn vocab_size(&self) -> usize {
        self.bpe.tokens().len()
    }

    /// The split pattern.
    #[getter]
    fn pattern(&self) -> &str {
        self.bpe.pattern()
    }

    /// Return the bytes and the rank of every token, in order of rank.
    fn mergeable_ranks<'py>(&self, py: Python<'py>) -> Vec<(Bound<'py, PyBytes>, usize)> {
        let tokens = self.bpe.tokens().iter();
        tokens.enumerate().map(|(rank, token)| (PyBytes::new(py, token), rank)).collect()
    }

    /// Return the two ids every token of two bytes or more is made of, in order of rank.
    ///
    /// Raises:
    ///     ValueError: a token is not the merge of two tokens of lower rank.
    fn merges(&self, py: Python<'_>) -> PyResult<Vec<(u32, u32)>> {
        Ok(py.detach(|| self.bpe.merges())?)
    }

    /// Return the ids of a text.
    ///
    /// Args:
    ///     text: str, or bytes that need not be UTF-8.
    fn encode(&self, py: Python<'_>, text: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
        let bytes = bytes_of(text)?;
        let bytes: &[u8] = &bytes;
        Ok(py.detach(|| self.bpe.encode(bytes))?)
    }

    /// Encode many texts on all cores.
    ///
    /// Args:
    ///     texts: str, or bytes that need not be UTF-8.
    ///     first: an id to put before each text; None for none.
    ///
    /// Returns:
    ///     (ids, offsets): the ids of all texts as native uint32, and as native int64 where each text begins
    ///     and, last, the number of ids.
    #[pyo3(signature = (texts, first = None))]
    fn encode_batch<'py>(
        &self,
        py: Python<'py>,
        texts: Vec<Bound<'py, PyAny>>,
        first: Option<u32>,
    ) -> PyResult<(Bound<'py, PyByteArray>, Bound<'py, PyByteArray>)> {
        let texts: Vec<Cow<'_, [u8]>> = texts.iter().map(bytes_of).collect::<PyResult<_>>()?;
        let pool = thread_pool()?;
        let flat = py.detach(|| pool.install(|| self.bpe.encode_batch(&texts, first)))?;
        Ok((buffer(py, &flat.ids, u32::to_ne_bytes)?, buffer(py, &flat.offsets, i64::to_ne_bytes)?))
    }

    /// Return the bytes that ids stand for.
    ///
    /// Raises:
    ///     ValueError: an id is outside the vocabulary.
    fn decode_bytes<'py>(&self, py: Python<'py>, ids: Vec<u32>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &py.detach(|| self.bpe.decode(&ids))?))
    }
}

/// The UTF-8 of a `str`, or `bytes` as they are.
fn bytes_of<'a>(text: &'a Bound<'_, PyAny>) -> PyResult<Cow<'a, [u8]>> {
    if let Ok(text) = text.cast::<PyString>() {
        return match text.to_cow() {
            Ok(Cow::Borrowed(text)) => Ok(Cow::Borrowed(text.as_bytes())),
            Ok(Cow::Owned(text)) => Ok(Cow::Owned(text.into_bytes())),
            Err(_) => Ok(Cow::Owned(without_lone_surrogates(text)?.into_bytes())),
        };
    }
    match text.cast::<PyBytes>() {
        Ok(bytes) => Ok(Cow::Borrowed(bytes.as_bytes())),
        Err(_) => {
            Err(PyTypeError::new_err(format!("a text must be str or bytes, not {}", text.get_type().name()?)))
        }
    }
}

/// Join the surrogates that form pairs and replace the others by U+FFFD.
fn without_lone_surrogates(text: &Bound<'_, PyString>) -> PyResult<String> {
    let encoded = text.call_method1("encode", ("utf-16-le", "surrogatepass"))?;
    let units: Vec<u16> = encoded
        .cast::<PyBytes>()?
        .as_bytes()
        .chunks_exact(2)
        .map(|unit| u16::from_le_bytes([unit[0], unit[1]]))
        .collect();
    Ok(String::from_utf16_lossy(&units))
}

/// Numbers as bytes that numpy can look at without a copy.
fn buffer<'py, T: Copy, const WIDTH: usize>(
    py: Python<'py>,
    numbers: &[T],
    to_bytes: impl Fn(T) -> [u8; WIDTH],
) -> PyResult<Bound<'py, PyByteArray>> {
    PyByteArray::new_with(py, numbers.len() * WIDTH, |bytes| {
        for (place, &number) in bytes.chunks_exact_mut(WIDTH).zip(numbers) {
            place.copy_from_slice(&to_bytes(number));
        }
        Ok(())
    })
}

/// The threads of this process.
fn thread_pool() -> PyResult<Arc<ThreadPool>> {
    static POOL: Mutex<Option<(u32, Arc<ThreadPool>)>> = Mutex::new(None);
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((process, threads)) = pool.as_ref()
        && *process == process::id()
    {
        return Ok(Arc::clone(threads));
    }
    let threads =
        ThreadPoolBuilder::new().build().map_err(|error| PyRuntimeError::new_err(error.to_string()))?;
    let threads = Arc::new(threads);
    // What a parent process left behind has no threads any more; to drop it would wait for them.
    std::mem::forget(pool.replace((process::id(), Arc::clone(&threads))));
    Ok(threads)
}

/// Byte-level BPE in Rust: training and encoding.
#[pymodule]
fn _rustbpe(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyBpe>()?;
    module.add_function(wrap_pyfunction!(train_from_iterator, module)?)
}
