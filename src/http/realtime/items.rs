//! The items of a session: one for each turn.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};
use stt_actors::domain::live::TurnId;

use super::new_id;

/// The most items that a client can retrieve; the oldest is forgotten first.
const MOST_ITEMS: usize = 128;

/// The items of a session.
#[derive(Debug, Default)]
pub struct Items {
    /// Turns without a text.
    open: BTreeMap<TurnId, OpenTurn>,
    committed: VecDeque<Item>,
    /// The item that was committed last.
    last: Option<String>,
}

#[derive(Debug)]
struct OpenTurn {
    item_id: String,
    is_committed: bool,
}

/// A committed turn.
#[derive(Clone, Debug)]
pub struct Item {
    id: String,
    transcript: Option<String>,
}

impl Item {
    /// The item in events.
    pub fn object(&self) -> Value {
        json!({
            "id": self.id,
            "object": "realtime.item",
            "type": "message",
            "status": "completed",
            "role": "user",
            "content": [{"type": "input_audio", "transcript": self.transcript}],
        })
    }
}

impl Items {
    /// The id of a turn's item.
    pub fn id_of(&mut self, turn: TurnId) -> String {
        let open = self.open.entry(turn).or_insert_with(|| OpenTurn {
            item_id: new_id("item"),
            is_committed: false,
        });
        open.item_id.clone()
    }

    /// Notes that a turn has all its audio. Returns its item and the id of the one before.
    pub fn commit(&mut self, turn: TurnId) -> (Item, Option<String>) {
        let id = self.id_of(turn);
        // An earlier turn that is not committed was cleared.
        (self.open).retain(|other, open| open.is_committed || *other >= turn);
        if let Some(open) = self.open.get_mut(&turn) {
            open.is_committed = true;
        }
        let item = Item {
            id: id.clone(),
            transcript: None,
        };
        self.committed.push_back(item.clone());
        if self.committed.len() > MOST_ITEMS {
            self.committed.pop_front();
        }
        (item, self.last.replace(id))
    }

    /// Notes the text of a turn, if there is one. Returns its item's id.
    pub fn complete(&mut self, turn: TurnId, transcript: Option<&str>) -> String {
        let id = self.id_of(turn);
        self.open.remove(&turn);
        if let Some(item) = self.committed.iter_mut().find(|item| item.id == id) {
            item.transcript = transcript.map(str::to_owned);
        }
        id
    }

    /// Number of turns without a text.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// The item with this id.
    pub fn get(&self, id: &str) -> Option<&Item> {
        self.committed.iter().find(|item| item.id == id)
    }

    /// Forgets an item. Returns whether it was there.
    pub fn delete(&mut self, id: &str) -> bool {
        let before = self.committed.len();
        self.committed.retain(|item| item.id != id);
        self.committed.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_follow_each_other_and_keep_their_text() {
        let mut items = Items::default();
        let started = items.id_of(TurnId(1));
        let (first, before) = items.commit(TurnId(1));
        assert_eq!((&first.id, before), (&started, None));
        let (second, before) = items.commit(TurnId(3));
        assert_eq!(before, Some(started.clone()));
        // Turns complete in any order.
        assert_eq!(items.complete(TurnId(3), Some("two")), second.id);
        assert_eq!(items.complete(TurnId(1), None), started);
        let found = items.get(&second.id).expect("it is there").object();
        assert_eq!(found["content"][0]["transcript"], "two");
        assert!(
            items.get(&started).expect("it is there").object()["content"][0]["transcript"]
                .is_null()
        );
        assert!(items.delete(&started) && !items.delete(&started));
        assert!(items.get(&started).is_none() && items.open.is_empty());
    }

    #[test]
    fn cleared_turns_and_old_items_are_forgotten() {
        let mut items = Items::default();
        for number in 0..1000 {
            items.id_of(TurnId(2 * number));
            items.commit(TurnId(2 * number + 1));
            items.complete(TurnId(2 * number + 1), Some("x"));
        }
        assert_eq!(items.committed.len(), MOST_ITEMS);
        assert!(items.open.is_empty(), "{:?}", items.open);
    }
}
