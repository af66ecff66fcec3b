//! The page at `/`, on which people speak and transcribe files, and the board at `/board`. Their files are part of the
//! program, load nothing from elsewhere, and use the public API only.

/// A file of the page.
#[derive(Clone, Copy, Debug)]
pub struct PageFile {
    /// Its name below `/page/`.
    pub name: &'static str,
    /// Its content.
    pub content: &'static str,
}

macro_rules! files {
    ($($name:literal),+ $(,)?) => {
        /// All files.
        pub const FILES: &[PageFile] = &[
            $(PageFile { name: $name, content: include_str!(concat!("files/", $name)) }),+
        ];
    };
}

files![
    "api.js",
    "board.css",
    "board.js",
    "card.js",
    "charts.js",
    "dom.js",
    "formats.js",
    "history.js",
    "icon.svg",
    "live.js",
    "main.js",
    "microphone.js",
    "options.js",
    "signin.js",
    "style.css",
    "wave.js",
];

/// The page at `/`.
pub const INDEX: PageFile = PageFile {
    name: "index.html",
    content: include_str!("files/index.html"),
};

/// The board at `/board`.
pub const BOARD: PageFile = PageFile {
    name: "board.html",
    content: include_str!("files/board.html"),
};

impl PageFile {
    /// The file with this name.
    pub fn find(name: &str) -> Option<Self> {
        FILES.iter().find(|file| file.name == name).copied()
    }

    /// The content type, from the name's extension.
    pub fn content_type(self) -> &'static str {
        match self.name.rsplit_once('.') {
            Some((_, "html")) => "text/html; charset=utf-8",
            Some((_, "css")) => "text/css; charset=utf-8",
            Some((_, "js")) => "text/javascript; charset=utf-8",
            Some((_, "svg")) => "image/svg+xml",
            Some(_) | None => "application/octet-stream",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::language;

    #[test]
    fn the_page_is_small_and_names_no_other_host() {
        let files = || FILES.iter().chain([&INDEX, &BOARD]);
        let bytes: usize = files().map(|file| file.content.len()).sum();
        assert!(bytes <= 150 * 1024, "{bytes} bytes");
        for file in files() {
            let text = file.content.replace("http://www.w3.org/2000/svg", "");
            // In a text for people, about the reader's own computer.
            let text = text.replace("http://localhost", "");
            assert!(
                !text.contains("http://") && !text.contains("https://"),
                "{}",
                file.name
            );
            assert_ne!(file.content_type(), "application/octet-stream");
        }
    }

    #[test]
    fn the_page_offers_the_languages_of_whisper() {
        let options = PageFile::find("options.js").expect("a file").content;
        let line = options.lines().find(|line| line.contains("const CODES"));
        let quoted = line.and_then(|line| line.split('"').nth(1));
        let offered: Vec<&str> = quoted.expect("a list").split(' ').collect();
        let mut known: Vec<&str> = language::all().map(language::Language::code).collect();
        known.sort_unstable();
        assert_eq!(offered, known);
    }
}
