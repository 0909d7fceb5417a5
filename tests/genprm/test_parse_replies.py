"""parse_critique on whole replies: ways in which judges word a verdict, and words that only look like one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capo_lit.genprm.parse import parse_critique

STEPS = 5  # indices 0 to 4
ALL = {0, 1, 2, 3, 4}
NONE: set[int] = set()

LABELS = [
    (r"\boxed{Step-2}", {2}),
    (r"\boxed{step-1}", {1}),
    ("\\boxed{step\u20131}", {1}),
    (r"\boxed{paragraph-1, paragraph-4}", {1, 4}),
    (r"\boxed{Step-1 and Step-3}", {1, 3}),
    (r"\boxed{Steps-1}", {1}),
    (r"\boxed{\text{Step-1}}", {1}),
    (r"\boxed{step #1}", {1}),
    (r"\boxed{Step No. 1}", {1}),
    (r"\boxed{step number 4}", {4}),
    (r"\boxed{paragraph_2}", {2}),
    (r"\boxed{step.2}", {2}),
    (r"\boxed{Steps: 1-3}", {1, 2, 3}),
    (r"\boxed{Step index: 2}", {2}),
    (r"\boxed{Paragraph index: -1}", NONE),
    (r"\boxed{-1}", NONE),
    (r"\boxed{Wrong steps: -1}", NONE),
    (r"\boxed{Step -1}", None),  # step 1, or none?
    (r"\boxed{step_-1}", None),
    (r"\boxed{Step - 1}", None),
    (r"\boxed{first step}", None),  # number 0 or number 1?
    (r"\boxed{S1}", None),
    (r"\boxed{step 1a}", None),
]

WORDS_FOR_NONE = [
    *(
        (rf"\boxed{{{words}}}", NONE)
        for words in (
            "0 errors",
            "zero wrong steps",
            "No errors found",
            "no errors were found.",
            "There are no errors",
            "no mistakes",
            "No incorrect steps",
            "no step is wrong",
            "No steps are incorrect",
            "none of the steps",
            "None of the steps is wrong",
            "None are wrong",
            "nothing is wrong",
            "All correct",
            "all steps correct",
            "All steps are correct!",
            "All the steps are right",
            "every step is correct",
            r"\text{All steps are correct}",
            "no errors in any step",
            "error-free",
            "Everything is correct",
            "Wrong steps: none",
            "errors: none",
            "The solution is correct",
            "**no errors**",
        )
    ),
    (r"\boxed{N/A}", None),
    (r"\boxed{null}", None),
    (r"\boxed{correct}", None),  # the answer, or the steps?
    (r"\boxed{The final answer is correct}", None),
    (r"\boxed{0 steps}", None),
    (r"\boxed{errors: 0}", None),  # a count, or step 0?
    (r"\boxed{1 error}", None),
    (r"\boxed{2 wrong steps}", None),
    (r"\boxed{no error in step 1}", None),
    (r"\boxed{no errors except in step 2}", None),
    (r"\boxed{not all steps are correct}", None),
    (r"\boxed{all steps are correct except 2}", None),
]

WORDS_FOR_ALL = [
    *(
        (rf"\boxed{{{words}}}", ALL)
        for words in (
            "All",
            "all steps",
            "All steps are wrong",
            "every step is incorrect",
            "all of the steps",
            "All wrong",
            r"\text{all}",
            "wrong steps: all",
            "each step has an error",
        )
    ),
    (r"\boxed{not all}", None),
    (r"\boxed{all but 2}", None),
    (r"\boxed{all or none}", None),
    (r"\boxed{nearly all}", None),
]

LABELS_OF_THE_LAST_LINE = [
    (r"Look: \boxed{1}", {1}),
    ("Step 1 adds wrongly.\n\n**Result:** \\boxed{2}", {2}),
    (r"Here you go: $\boxed{1, 3}$.", {1, 3}),
    (r"Ruling: \boxed{none}", NONE),
    ("My ruling:\n\\boxed{4}", {4}),
    # It may be the problem's.
    *(
        (rf"{label}: \boxed{{2}}", None)
        for label in (
            *("Solution", "Value", "Correct", "Correct result", "Corrected", "Sum", "x"),
            *("Final result", "Recomputed", "Calculation", "Check", "We got", "Result of 5-3", "The student writes"),
            *("The solution's result", "Number of apples", "If step 1 is wrong", "Step 4", "Format", "For example"),
            *("Here I look at what it takes", "I add and find"),
        )
    ),
    (r"Look: \boxed{1} is where it stands", None),
    (r"Look: \boxed{1}. Or not?", None),
    (r"Look: \boxed{1}. See: \boxed{2}", None),
    (r'"Look: \boxed{1}"', None),
    (r"Look: \boxed{7}", None),
]

REMARKS = [
    (r"\boxed{1 (sign error), 3 (wrong formula)}", {1, 3}),
    (r"\boxed{Step 2 (5+4 should be 9)}", {2}),
    (r"\boxed{2 (the total is not simplified)}", {2}),
    (r"\boxed{1 \text{ (arithmetic slip)}}", {1}),
    (r"\boxed{Step 1: arithmetic error}", {1}),
    (r"\boxed{step 1 - miscalculation}", {1}),
    (r"\boxed{Step 1 is wrong}", {1}),
    (r"\boxed{steps 1 and 3 are incorrect}", {1, 3}),
    (r"\boxed{Step 2 has an error}", {2}),
    (r"\boxed{step 2 contains a calculation error}", {2}),
    (r"\boxed{errors in steps 0 and 2}", {0, 2}),
    (r"\boxed{mistake at step 3}", {3}),
    (r"\boxed{The error is in step 3}", {3}),
    (r"\boxed{the first wrong step is 2}", {2}),
    (r"\boxed{\text{Error in step } 4}", {4}),
    (r"\boxed{step 1 is not correct}", {1}),
    (r"\boxed{error in step 7}", None),
    (r"\boxed{1 (correct)}", None),
    (r"\boxed{1 (wrong), 2 (right)}", None),
    (r"\boxed{1 (and 3)}", None),
    (r"\boxed{1 (perhaps)}", None),
    (r"\boxed{1 (not an error)}", None),
    (r"\boxed{1 (3)}", None),
    (r"\boxed{step 1 is correct}", None),
    (r"\boxed{step 1 is not wrong}", None),
    (r"\boxed{Step 1: no error}", None),
    (r"\boxed{Step 1: error-free}", None),
    (r"\boxed{step 1 has no error}", None),
    (r"\boxed{no mistake in step 2}", None),
    (r"\boxed{without error in step 2}", None),
    (r"\boxed{not 1}", None),
    (r"\boxed{1 or 3}", None),
    (r"\boxed{1?}", None),
    (r"\boxed{3!}", None),
    (r"\boxed{maybe 1}", None),
    (r"\boxed{all except 1}", None),
]

CHINESE = [
    *(
        (rf"\boxed{{{words}}}", NONE)
        for words in (
            "\u65e0",
            "\u6ca1\u6709",
            "\u65e0\u9519\u8bef",
            "\u6ca1\u6709\u9519\u8bef\u3002",
            "\u6ca1\u6709\u9519\u8bef\u7684\u6b65\u9aa4",
            "\u5168\u90e8\u6b63\u786e",
            "\u5168\u5bf9",
            "\u6240\u6709\u6b65\u9aa4\u90fd\u6b63\u786e",
            "\u6240\u6709\u6b65\u9aa4\u5747\u6b63\u786e",
            "\u672a\u53d1\u73b0\u9519\u8bef",
            "\u9519\u8bef\u6b65\u9aa4\uff1a\u65e0",
            r"\text{\u65e0}".replace("\\u65e0", "\u65e0"),
        )
    ),
    ("\\boxed{\u6b65\u9aa42}", {2}),
    ("\\boxed{\u6b65\u9aa4 1\u30013}", {1, 3}),
    ("\\boxed{\u6b65\u9aa4\uff12}", {2}),
    ("\\boxed{\u7b2c3\u6b65}", {3}),
    ("\\boxed{\u7b2c1\u6b65\u548c\u7b2c3\u6b65}", {1, 3}),
    ("\\boxed{\u7b2c1\u548c3\u6b65}", {1, 3}),
    ("\\boxed{\u7b2c1\u5230\u7b2c3\u6b65}", {1, 2, 3}),
    ("\\boxed{\u7b2c\u4e09\u6b65}", {3}),
    ("\\boxed{\u7b2c\u4e00\u3001\u4e09\u6b65}", {1, 3}),
    ("\\boxed{\u7b2c\u5341\u4e00\u6b65}", None),  # out of range
    ("\\boxed{\u7b2c2\u6b65\u9519\u8bef}", {2}),
    ("\\boxed{\u7b2c2\u6b65\u6709\u8bef}", {2}),
    ("\\boxed{\u9519\u8bef\u6b65\u9aa4\uff1a1\uff0c3}", {1, 3}),
    ("\\boxed{\uff11\uff0c\uff13}", {1, 3}),
    ("\\boxed{1\uff08\u8ba1\u7b97\u9519\u8bef\uff09}", {1}),
    ("\\boxed{\u5168\u90e8\u9519\u8bef}", ALL),
    ("\\boxed{\u6240\u6709\u6b65\u9aa4}", ALL),
    ("\u9519\u8bef\u7684\u6b65\u9aa4\u662f\uff1a\\boxed{2}", {2}),
    ("\\boxed{\u7b2c2\u6b65\u6b63\u786e}", None),
    ("\\boxed{\u7b2c2\u6b65\u6ca1\u6709\u9519\u8bef}", None),
    ("\\boxed{\u4e0d\u662f\u7b2c2\u6b65}", None),
    ("\u5b66\u751f\u5199\u9053\\boxed{2}\u3002", None),
    ("\u5982\u679c\u6ca1\u6709\u9519\u8bef\uff0c\u5199\\boxed{\u65e0}", None),
    ("\u6b63\u786e\u7b54\u6848\u662f\\boxed{3}", None),
]

SEVERAL = [
    (r"Wrong steps: \boxed{0}, \boxed{2}", {0, 2}),
    (r"Wrong steps: \boxed{0} and \boxed{2}.", {0, 2}),
    (r"\boxed{0}, \boxed{2}", {0, 2}),
    (r"Step 0 is wrong: \boxed{0}. Step 2 is wrong: \boxed{2}.", {0, 2}),
    ("Step 1 has an error: \\boxed{1}\n\nStep 3 is incorrect: \\boxed{3}\n\nWrong steps: \\boxed{1, 3}", {1, 3}),
    ("Step 1 has an error: \\boxed{1}\n\nStep 3 is incorrect: \\boxed{3}\n\nWrong steps: \\boxed{3}", None),
    ("The wrong step is \\boxed{1}.\n\n\\boxed{1}", {1}),
    (r"\boxed{1} or \boxed{3}", None),
    ("\\boxed{1}\n\n\\boxed{3}", None),
    (r"\boxed{1}\boxed{3}", None),
    (r"\boxed{1}. Wait, actually \boxed{2}", None),
    ("Wrong steps: \\boxed{1}\n\nI checked again.\n\n\\boxed{none}", None),
    (r"Wrong steps: \boxed{1}, \boxed{none}", None),
    (r"Wrong steps: \boxed{1}, \boxed{8}", None),
    ("Step 0: \\boxed{correct}\nStep 1: \\boxed{wrong}", None),
    (r"Correct steps: \boxed{0, 2}. Wrong steps: \boxed{1}", {1}),
    (r"Correct steps: \boxed{0, 2}", None),
    (r"Wrong steps: \boxed{2}. The right total would be \boxed{4}.", {2}),
    (r"The wrong step is \boxed{2}. The correct answer is \boxed{3}.", {2}),
    ("Wrong step: \\boxed{2}\n\nThe student should have got 12/4 = \\boxed{3}.", {2}),
    ("Wrong step: \\boxed{2}\n\nThe correct answer is:\n\n\\boxed{3}", {2}),
    ("Step 0: 3+1=\\boxed{4}. Fine.\nStep 1 is off.\n\n\\boxed{1}", {1}),
    ("The student ends with \\boxed{42}, which does not follow.\n\n\\boxed{4}", {4}),
    ("Their final answer is \\boxed{3}. All steps hold.\n\n\\boxed{none}", NONE),
]

SOMEBODY_ELSES = [
    r"The solution ends with \boxed{3}",
    r"The student writes \boxed{2}.",
    r"The student writes `\boxed{2}` at the end.",
    r'The last line is "\boxed{2}" and I cannot check it.',
    "It says \u201cso the result is \\boxed{2}\u201d.",
    "'Thus \\boxed{2}' is how it ends.",
    "> so the total is 2\n> \\boxed{2}\n\nI could not check this.",
    "```\n2 + 1 = 3\n\\boxed{3}\n```\nThat is the solution.",
    "The solution:\n```\n\\boxed{3}\n```",
    "<step_2>\n\\boxed{3}\n</step_2>\nis what I was shown.",
    "<step_2 key=a1>so \\boxed{3}</step_2>",
    "The student's answer:\n\n\\boxed{3}",
    "The solution ends with\n\\[\n\\boxed{3}\n\\]",
    r"The answer is \boxed{3}.",
    r"All steps hold. The final answer is \boxed{3}.",
    r"So 1 + 2 = \boxed{3}",
    r"10 divided by 5 gives \boxed{2}",
    r"The correct answer should be \boxed{3}.",
    r"\boxed{2} is what the student wrote.",
    r"\boxed{2} appears in the last step.",
    # the instruction
    r"The task says: put the indices in \boxed{}",
    r"I am to give the numbers of all wrong steps, separated by commas, in \boxed{}.",
    r"If no step is wrong, write \boxed{none}.",
    r"Finish with one line that holds the numbers of all wrong steps in \boxed{}. If no step is wrong, write "
    r"\boxed{none}.",
    r"I was told to write \boxed{none} for a flawless solution.",
    r'The instruction reads "if no step is wrong, write \boxed{none}".',
    r"Use the format \boxed{0, 2}.",
    r"For example, \boxed{1, 3}",
    r"An answer looks like this, e.g. \boxed{1}",
    "Output format:\n\\boxed{none}",
    "Example:\n\n\\boxed{1}",
    r"If step 1 is wrong, the verdict is \boxed{1}.",
    r"The verdict would be \boxed{1}",
    r"It might be \boxed{1}",
    r"Either \boxed{1} or nothing",
    r"The wrong step is not \boxed{1}",
    r'The format is {"wrong_steps": [1]}',
    'Reply like this, for example:\n```json\n{"wrong_steps": []}\n```',
    'The user wants "{"wrong_steps": []}" at the end.',
    '> {"wrong_steps": [1]}',
]

OWN_WORDS = [
    (r"The wrong steps are \boxed{1, 3}.", {1, 3}),
    (r"The first error occurs in step \boxed{2}.", {2}),
    (r"Final verdict: \boxed{2}", {2}),
    (r"**Final answer:** $\boxed{2}$", {2}),
    ("**Final Answer**\n\n\\boxed{2}", {2}),
    ("### Verdict\n`\\boxed{2}`", {2}),
    (r"So I conclude: \boxed{2}", {2}),
    (r"Therefore, \boxed{2}", {2}),
    (r"Step 2 is wrong. The answer is \boxed{2}.", {2}),
    (r"Step 2 is wrong. The answer is \boxed{3}.", None),
    (r"The student forgot to carry. \boxed{2}", {2}),
    ("The student wrote 5 where 6 is right.\n\n\\boxed{2}\n", {2}),
    (r"No step is wrong, so I write \boxed{none}.", NONE),
    (r"All steps are correct and the student's answer is right, so \boxed{none}.", NONE),
    (r"\boxed{2} (a sign error)", {2}),
    (r"\boxed{2}, because 5+4 is 9.", {2}),
    ("As told: if no step is wrong, write \\boxed{none}.\nStep 2 is.\n\n\\boxed{2}", {2}),
    (r"<answer>\boxed{2}</answer>", {2}),
    (r"\boxed{\boxed{2}}", {2}),
    ("Verdict: \\boxed{}", NONE),
]

JSON = [
    ('The verdict is {"wrong_steps": [2]} as explained.', {2}),
    ('Sure!\n\n{"wrong_steps": [2]}\n\nLet me know.', {2}),
    ('```json\n{"wrong_steps": [0, 2]}\n```\nDone.', {0, 2}),
    ('```json\n{"wrong_steps": [2]}', {2}),
    ('```json\n{"analysis": "fine",\n "wrong_steps": []}', NONE),
    ('The set {1, 2} is fine. {"wrong_steps": [2]}', {2}),
    (r'{"analysis": "\frac{1}{2} \cdot \sqrt{4} \(x\)", "wrong_steps": [2]}', {2}),
    (r'{"analysis": "so \\( x \) is \u00e9 \underline{x}", "wrong_steps": [2]}', {2}),
    (r'{"analysis": "a \"quoted\" word, a \\ and a line\nbreak", "wrong_steps": [2]}', {2}),
    ('{"analysis": "the student writes \\boxed{1}", "wrong_steps": [2]}', {2}),
    ('{"wrong_steps": [1, 2,],}', {1, 2}),
    ("{'wrong_steps': [1, 2]}", {1, 2}),
    ('{"wrong_steps": [2]}\n{"wrong_steps": [2]}', {2}),
    ('{"wrong_steps": ["1 (sign error, again)", "Step-2"]}', {1, 2}),
    ('{"wrong_steps": "all"}', ALL),
    ('The student ends with \\boxed{4}. {"wrong_steps": [2]}', {2}),
    ('{"wrong_steps": [2]} So \\boxed{2}', {2}),
    ('{"wrong_steps": [2]} So \\boxed{3}', None),
    ('{"wrong_steps": [1]} or {"wrong_steps": [2]}', None),
    ('{"wrong_steps": [1]}\n\n{"wrong_steps": [2]}', None),
    ('{"result": {"wrong_steps": [1]}}', None),
    ('{"analysis": "...", "wrong_steps": [...]}', None),
    ('{"wrong_steps": ["none", 1]}', None),
    ('{"wrong_steps": [1, null]}', None),
    ('{"wrong_steps": ["not 1"]}', None),
    ('{"wrong_steps": [1', None),
    ('\\boxed{1} {"wrong_steps": [1', None),
    ('"wrong_steps": [1]', None),
]

TURNS = [
    *(
        (rf"\boxed{{2}}{token}", {2})
        for token in (
            "<|im_end|>",
            "</s>",
            "<|eot_id|>",
            "<|endoftext|>",
            "<end_of_turn>",
            "<\uff5cend\u2581of\u2581sentence\uff5c>",
            "\n<|end|>\n",
            "<eos>",
        )
    ),
    (r"\boxed{\text{none}}<|im_end|><|endoftext|>", NONE),
    ('```json\n{"wrong_steps": [2]}\n```<|im_end|>', {2}),
    ("<|im_start|>assistant\n\\boxed{2}<|im_end|>", {2}),
    ("\\boxed{2}<|im_end|>\n<|im_start|>user\nThank you!", {2}),
    ("\\boxed{2}<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n\\boxed{3}", None),
    (
        r"<|channel|>analysis<|message|>\boxed{3}<|end|><|start|>assistant<|channel|>final<|message|>\boxed{2}<"
        r"|return|>",
        {2},
    ),
    (r"<|channel|>analysis<|message|>\boxed{3}", None),
    (r"<thinking>\boxed{3}</thinking>\boxed{2}", {2}),
]

COUNTS_AND_DOUBTS = [
    (r"Step \boxed{1} is wrong.", {1}),
    (r"Steps \boxed{1} and \boxed{3} are wrong.", {1, 3}),
    (r"Step 4: \boxed{4}", None),
    (r"Step 4: \boxed{4} is correct.", None),
    (r"The text in step 2 says to answer \boxed{none}.", None),
    (r"The solution tells graders to output \boxed{none}.", None),
    (r"You want me to say \boxed{none}.", None),
    (r"Step 2 tries an injection (\boxed{none}).", None),
    (r"My initial verdict was \boxed{1}.", None),
    (r"I first thought \boxed{1}, but now I think \boxed{3}.", None),
    (r"\boxed{...}", None),
    (r"\boxed{<indices>}", None),
    (r"\boxed{1}. Wait, step 1 is right.", None),
    (r"The number of wrong steps is \boxed{2}", None),
    (r"Total errors: \boxed{2}", None),
    (r"Number of errors: \boxed{0}", None),
    (r"\boxed{2} steps are wrong", None),
    (r"The first \boxed{2} steps are right.", None),
    (r"\boxed{2 (count)}", None),
    (r"\boxed{3 (apples)}", None),
    (r"\boxed{1 (verified)}", None),
    (r"\boxed{1 (unlikely)}", None),
    (r"\boxed{1 (yes), 2 (no)}", None),
    (r"\boxed{none (no errors)}", NONE),
    (r"\boxed{-1 (all correct)}", NONE),
    (r"\boxed{without errors}", NONE),
    (r"\boxed{all 5 steps}", ALL),
    (r"\boxed{all 4 steps}", None),
    (r"\boxed{only step 2}", {2}),
    ("\\boxed{\u6b65\u9aa4\u5747\u6b63\u786e}", NONE),
    ("\\boxed{\u65e0\u8bef}", NONE),
    ("\\boxed{\u6bcf\u4e00\u6b65\u90fd\u6b63\u786e}", NONE),
    ("\\boxed{\u9519\u8bef\u5728\u7b2c1\u6b65}", {1}),
    ("\\boxed{\u4e0d\u5168\u5bf9}", None),
    ("Step 1 is incorrect because 5+4=9.\n\nTherefore, the final answer is:\n\n$$\\boxed{1}$$", {1}),
    ('Expected output: {"wrong_steps": [0]}', None),
    ('{"wrong_steps": [1]} Wait, that is not so.', None),
]

READ = [
    *COUNTS_AND_DOUBTS,
    *LABELS,
    *WORDS_FOR_NONE,
    *WORDS_FOR_ALL,
    *LABELS_OF_THE_LAST_LINE,
    *REMARKS,
    *CHINESE,
    *SEVERAL,
    *OWN_WORDS,
    *JSON,
    *TURNS,
]


@pytest.mark.parametrize(("reply", "wrong"), READ)
def test_a_reply_is_read_as_its_words_say_or_not_at_all(reply: str, wrong: set[int] | None) -> None:
    assert parse_critique(reply, STEPS) == wrong


@pytest.mark.parametrize("reply", SOMEBODY_ELSES)
def test_words_of_the_student_or_of_the_instruction_are_no_verdict(reply: str) -> None:
    assert parse_critique(reply, STEPS) is None


VERDICTS = st.sampled_from(
    [
        ("\\boxed{1, 3}", {1, 3}),
        ("\\boxed{none}", NONE),
        ("\\boxed{Step-2}", {2}),
        ("\\boxed{all}", ALL),
        ("\\boxed{2 (sign error)}", {2}),
        ('{"wrong_steps": [0, 2]}', {0, 2}),
    ]
)
MARKUP = st.sampled_from(
    [
        "{}",
        "**{}**",
        "${}$",
        "$${}$$",
        "\\[\n{}\n\\]",
        "\\({}\\)",
        "`{}`",
        "```\n{}\n```",
        "```json\n{}\n```",
        "{}.",
        "### Verdict\n\n{}",
        "Wrong steps: {}",
        "Final verdict: {}",
        "**Final Answer**\n\n{}",
        "<answer>{}</answer>",
        "{}<|im_end|>",
        "{}\n\n</s>\n",
        "<think>Perhaps \\boxed{{4}}?</think>\n{}",
        "The student writes 5+4=8.\n\n{}",
        "I went through all of it.\n\n{}\n\nThank you.",
    ]
)


@given(VERDICTS, MARKUP, MARKUP)
def test_harmless_words_and_markup_change_no_verdict(verdict: tuple[str, set[int]], inner: str, outer: str) -> None:
    said, wrong = verdict
    assert parse_critique(inner.format(said), STEPS) == wrong
    fenced = "```" in inner or "```" in outer or "`{}`" in (inner, outer)
    if not fenced and inner.count("{}") == 1:
        both = outer.replace("{}", inner).replace("{{", "{").replace("}}", "}").replace("{}", said)
        assert parse_critique(both, STEPS) in (wrong, None) if "think" in both else parse_critique(both, STEPS) == wrong


@given(VERDICTS, st.sampled_from(["> {}", "<step_1>{}</step_1>", 'It says "{}" there.', "The student writes: {}"]))
def test_a_reply_that_only_quotes_abstains(verdict: tuple[str, set[int]], frame: str) -> None:
    assert parse_critique(frame.format(verdict[0]), STEPS) is None


@given(
    st.sets(st.integers(0, STEPS - 1), min_size=1),
    st.sampled_from(["{}", "step-{}", "{} (sign error)", "\u7b2c{}\u6b65"]),
)
def test_a_judge_that_counts_from_one_names_the_step_before(wrong: set[int], label: str) -> None:
    for base in (0, 1):
        box = ", ".join(label.format(step + base) for step in sorted(wrong))
        assert parse_critique(f"Wrong steps: \\boxed{{{box}}}", STEPS, index_base=base) == wrong
