use super::*;
use crate::forms::forms;

#[test]
fn every_form_can_be_generated() {
    let model = CpuModel::named(Some("host")).unwrap();
    let generator = Generator::new(model.clone());
    let missing: Vec<String> = forms(&model)
        .into_iter()
        .filter(|f| (0..20).all(|i| generator.case(*f, 1, i).is_none()))
        .map(Form::name)
        .collect();
    assert!(missing.is_empty(), "{} forms: {missing:?}", missing.len());
}

#[test]
fn a_case_is_the_same_every_time() {
    let model = CpuModel::named(Some("x86-64-v1")).unwrap();
    let generator = Generator::new(model.clone());
    for form in forms(&model).into_iter().step_by(97) {
        let [a, b] = [0, 1].map(|_| generator.case(form, 3, 5).map(|c| (c.input.code, c.input.regs)));
        assert_eq!(a, b);
    }
}
