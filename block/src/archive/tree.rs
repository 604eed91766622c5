//! What an archive leaves behind when all of it is unpacked. Names are resolved here, in memory: no link is followed, and
//! nothing lies outside of the root.

use std::collections::BTreeMap;
use std::io::{self, Read};

use super::{Kind, Meta, Piece, Reader, Special, shown, wrong};

/// Folders in folders, at most.
const MAX_DEPTH: usize = 256;
/// Most nodes of a tree.
const MAX_NODES: usize = 1 << 22;
/// Most bytes of a name (`NAME_MAX`).
const MAX_NAME: usize = 255;
/// The root's place among the nodes.
pub const ROOT: usize = 0;

/// Takes a file's bytes: the node's number, the file's size, and what the reader is to be asked for.
pub type Store<'a, R> = dyn FnMut(usize, u64, &[Piece], &mut Reader<R>) -> io::Result<()> + 'a;

/// The nodes of a tree. Of some, the archive had another version later: nothing leads to them.
#[derive(Debug)]
pub struct Tree {
    nodes: Vec<Node>,
}

/// A node.
#[derive(Debug)]
pub struct Node {
    /// Who may do what with it, and whose it is.
    pub meta: Meta,
    /// What it is.
    pub content: Content,
}

/// What a node is.
#[derive(Debug)]
pub enum Content {
    /// A folder: names and where their nodes are.
    Folder(BTreeMap<Vec<u8>, usize>),
    /// A file, whose bytes are elsewhere.
    File,
    /// A symbolic link to this.
    Link(Vec<u8>),
    /// A node without content.
    Special(Special),
}

impl Tree {
    /// Reads an archive. The bytes of files go to `store`.
    ///
    /// # Errors
    /// It is no archive, it wants to be elsewhere than below its root, it cannot be read, or what `store` says.
    pub fn read<R: Read>(input: R, store: &mut Store<'_, R>) -> io::Result<Self> {
        let mut tree = Self { nodes: vec![folder(0)] };
        let mut reader = Reader::new(input);
        while let Some(member) = reader.advance()? {
            let path = names(&member.path)?;
            let Some((name, parents)) = path.split_last() else {
                if let (Kind::Folder, Some(root)) = (&member.kind, tree.nodes.first_mut()) {
                    root.meta = member.meta;
                }
                continue;
            };
            let parent = tree
                .enter(parents, member.meta.modified)
                .map_err(|fact| wrong(format!("{} {fact}", shown(&member.path))))?;
            let content = match member.kind {
                Kind::Folder => Content::Folder(BTreeMap::new()),
                Kind::File(len, pieces) => {
                    store(tree.nodes.len(), len, &pieces, &mut reader)?;
                    Content::File
                }
                Kind::Link(target) => Content::Link(target),
                Kind::Special(special) => Content::Special(special),
                Kind::Hard(target) => {
                    let node = tree.find(&names(&target)?);
                    let node =
                        node.filter(|&node| !matches!(tree.get(node), Some(Content::Folder(_)) | None));
                    let node = node.ok_or_else(|| {
                        wrong(format!(
                            "{} is another name of {}, which is not there",
                            shown(&member.path),
                            shown(&target)
                        ))
                    })?;
                    tree.name(parent, name, node);
                    continue;
                }
            };
            let known =
                tree.child(parent, name).filter(|&node| matches!(tree.get(node), Some(Content::Folder(_))));
            match (content, known) {
                // A folder that was there is told of once more.
                (Content::Folder(_), Some(known)) => {
                    if let Some(node) = tree.nodes.get_mut(known) {
                        node.meta = member.meta;
                    }
                }
                (_, Some(_)) => {
                    return Err(wrong(format!(
                        "{} is a folder before it is something else",
                        shown(&member.path)
                    )));
                }
                (content, None) => {
                    tree.add(parent, name, Node { meta: member.meta, content })?;
                }
            }
        }
        Ok(tree)
    }

    /// The nodes by their numbers; the first is the root.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    fn get(&self, node: usize) -> Option<&Content> {
        self.nodes.get(node).map(|node| &node.content)
    }

    fn child(&self, parent: usize, name: &[u8]) -> Option<usize> {
        match self.get(parent)? {
            Content::Folder(list) => list.get(name).copied(),
            _ => None,
        }
    }

    fn find(&self, path: &[&[u8]]) -> Option<usize> {
        path.iter().try_fold(ROOT, |folder, name| self.child(folder, name))
    }

    /// The folder of that path. Those that are not there are made.
    fn enter(&mut self, path: &[&[u8]], modified: u64) -> Result<usize, String> {
        let mut at = ROOT;
        for name in path {
            at = match self.child(at, name) {
                None => self.add(at, name, folder(modified)).map_err(|e| e.to_string())?,
                Some(child) => child,
            };
            if !matches!(self.get(at), Some(Content::Folder(_))) {
                return Err(format!("is in {}, which is no folder", shown(name)));
            }
        }
        Ok(at)
    }

    fn add(&mut self, parent: usize, name: &[u8], node: Node) -> io::Result<usize> {
        let number = self.nodes.len();
        if number >= MAX_NODES {
            return Err(wrong("it has too many files"));
        }
        self.nodes.push(node);
        self.name(parent, name, number);
        Ok(number)
    }

    fn name(&mut self, parent: usize, name: &[u8], node: usize) {
        if let Some(Node { content: Content::Folder(list), .. }) = self.nodes.get_mut(parent) {
            list.insert(name.to_vec(), node);
        }
    }
}

/// A folder that nobody has told of.
fn folder(modified: u64) -> Node {
    let meta = Meta { mode: 0o755, uid: 0, gid: 0, modified, attributes: Vec::new() };
    Node { meta, content: Content::Folder(BTreeMap::new()) }
}

/// The names of a path. One that begins at the root is taken from there.
fn names(path: &[u8]) -> io::Result<Vec<&[u8]>> {
    let names: Vec<_> =
        path.split(|&byte| byte == b'/').filter(|name| !matches!(*name, b"" | b".")).collect();
    if names.contains(&&b".."[..]) {
        return Err(wrong(format!("{} leads out of it", shown(path))));
    }
    if names.len() > MAX_DEPTH || names.iter().any(|name| name.len() > MAX_NAME || name.contains(&0)) {
        return Err(wrong(format!("{} is no path", shown(path))));
    }
    Ok(names)
}
