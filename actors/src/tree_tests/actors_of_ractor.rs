//! Behaviour of the actor framework that the tree depends on, so that these tests detect an update that
//! changes it.

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::mpsc;

type Notes = mpsc::UnboundedSender<&'static str>;

/// Reports its drop and its stop.
struct Child;

struct ChildState(Notes);

impl Drop for ChildState {
    fn drop(&mut self) {
        let _ = self.0.send("state dropped");
    }
}

enum ChildMessage {
    Panic,
    NoteSpan,
}

impl Actor for Child {
    type Msg = ChildMessage;
    type State = ChildState;
    type Arguments = Notes;

    async fn pre_start(
        &self,
        _: ActorRef<Self::Msg>,
        notes: Notes,
    ) -> Result<ChildState, ActorProcessingErr> {
        Ok(ChildState(notes))
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut ChildState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ChildMessage::Panic => panic!("scripted"),
            ChildMessage::NoteSpan => {
                let inside = tracing::Span::current()
                    .metadata()
                    .map(tracing::Metadata::name);
                let _ = state.0.send(inside.unwrap_or("no span"));
                Ok(())
            }
        }
    }

    async fn post_stop(
        &self,
        _: ActorRef<Self::Msg>,
        state: &mut ChildState,
    ) -> Result<(), ActorProcessingErr> {
        let _ = state.0.send("post_stop");
        Ok(())
    }
}

/// Has one child, and reports the child's supervision events.
struct Parent;

impl Actor for Parent {
    type Msg = ();
    type State = (Notes, ActorRef<ChildMessage>);
    type Arguments = (Notes, mpsc::UnboundedSender<ActorRef<ChildMessage>>);

    async fn pre_start(
        &self,
        myself: ActorRef<()>,
        (notes, children): Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let spawned = Child::spawn_linked(None, Child, notes.clone(), myself.get_cell()).await?;
        let _ = children.send(spawned.0.clone());
        Ok((notes, spawned.0))
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<()>,
        event: SupervisionEvent,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(..) => {
                let _ = state.0.send("parent heard");
            }
            SupervisionEvent::ActorTerminated(_, _, Some(reason)) if reason == "killed" => {
                let _ = state.0.send("parent heard killed");
            }
            _ => {}
        }
        Ok(())
    }
}

async fn family() -> (
    ActorRef<()>,
    ActorRef<ChildMessage>,
    mpsc::UnboundedReceiver<&'static str>,
) {
    let (notes, heard) = mpsc::unbounded_channel();
    let (children, mut child) = mpsc::unbounded_channel();
    let (parent, _join) = Parent::spawn(None, Parent, (notes, children))
        .await
        .expect("spawns");
    let child = child.recv().await.expect("a child");
    (parent, child, heard)
}

#[tokio::test(start_paused = true)]
async fn a_panic_drops_the_state_without_post_stop_possibly_after_the_parents_event() {
    let (parent, child, mut heard) = family().await;
    child.cast(ChildMessage::Panic).expect("sent");
    let mut notes = vec![heard.recv().await, heard.recv().await];
    notes.sort_unstable();
    // In either order, which is why memory counts as free only after the process has ended.
    assert_eq!(notes, [Some("parent heard"), Some("state dropped")]);
    parent.stop_and_wait(None, None).await.expect("stops");
}

#[tokio::test(start_paused = true)]
async fn a_killed_child_is_reported_as_terminated_and_not_as_failed() {
    let (parent, child, mut heard) = family().await;
    child.kill();
    let mut notes = vec![heard.recv().await, heard.recv().await];
    notes.sort_unstable();
    assert_eq!(notes, [Some("parent heard killed"), Some("state dropped")]);
    parent.stop_and_wait(None, None).await.expect("stops");
}

#[tokio::test(start_paused = true)]
async fn a_parents_end_kills_its_children_without_their_post_stop() {
    let (parent, child, mut heard) = family().await;
    parent.stop_and_wait(None, None).await.expect("stops");
    child.get_cell().wait(None).await.expect("ends with it");
    assert_eq!(heard.recv().await, Some("state dropped"));
}

#[tokio::test(start_paused = true)]
async fn a_handler_does_not_run_inside_the_span_of_the_sender() {
    let subscriber = tracing_subscriber::registry();
    let _guard = tracing::subscriber::set_default(subscriber);
    let (parent, child, mut heard) = family().await;
    let request = tracing::info_span!("another request");
    request
        .in_scope(|| child.cast(ChildMessage::NoteSpan))
        .expect("sent");
    assert_ne!(heard.recv().await, Some("another request"));
    parent.stop_and_wait(None, None).await.expect("stops");
}
