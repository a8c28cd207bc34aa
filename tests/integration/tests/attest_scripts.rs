//! A script is listed, and so is what interprets it.

use integration::{Envelope, Scene, Tool, system, write_elsewhere};

#[test]
fn a_script_is_listed_and_so_is_its_interpreter() {
    let scene = Scene::new();
    let file = |name| scene.daemon.layout().file(name);
    let (script, other) =
        (Tool::script(file("script"), &scene.listed), Tool::script(file("other-script"), &scene.listed));
    let envelope = scene.envelope("scripts", "deny-egress").image(script.path());
    let with_interpreter = envelope.clone().image(scene.listed.path());
    let talks = |envelope: &Envelope, script: &Tool| {
        let mut process = scene.daemon.run(envelope, &[script.text()]);
        Tool::talks(&mut process, &scene.spec())
    };
    assert!(talks(&with_interpreter, &script), "both are listed");
    assert!(talks(&with_interpreter, &script), "and asked for each time");
    assert!(!talks(&with_interpreter, &other), "the script is not");
    assert!(!talks(&envelope, &script), "the interpreter is not");
    let measured = scene.daemon.wait_for_events(1, "the script is in the record", |event| {
        event.kind() == "image-measured" && event.find("/image/script").is_some()
    });
    assert_eq!(measured[0].text("/image/script/path"), script.text());
    assert_eq!(measured[0].text("/image/script/sha256"), script.sha256());
    assert_eq!(measured[0].text("/image/path"), scene.listed.text());
}

#[test]
fn an_interpreter_that_is_a_script_is_listed_too() {
    let scene = Scene::new();
    let file = |name| scene.daemon.layout().file(name);
    // What is found by that name may be a script.
    let python = system(&["python3", "-c", "import sys; print(sys.executable)"]).trim().to_owned();
    let address = scene.server.address();
    let code = format!(
        "#!{python}
import json, socket
errno = 0
try: socket.create_connection(('{}', {}))
except OSError as error: errno = error.errno
print(json.dumps(dict(label='tcp', errno=errno)))
",
        address.ip(),
        address.port()
    );
    let [between, script] = ["between", "script"].map(|name| Tool::script(file(name), &scene.listed));
    for (tool, text) in [(&between, code), (&script, format!("#!{}\n", between.text()))] {
        write_elsewhere(tool.path(), &text);
        tool.settle();
    }
    let reaches =
        |envelope: &Envelope| scene.outcome(scene.daemon.layout().run_command(envelope, &[script.text()]));
    let two = scene.envelope("two", "deny-egress").image(script.path()).image(python.as_ref());
    assert!(reaches(&two.clone().image(between.path())), "control: all three are listed");
    assert!(!reaches(&two), "the one between is not");
}
