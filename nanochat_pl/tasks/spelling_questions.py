"""Ways to ask how often a letter stands in a word.

Most people who ask are in a hurry: they forget capitals and question marks, and some do not ask in English. Data only;
`spellingbee.py` fills in `{letter}` and `{word}`. No template ends with a question mark, which is added at random.
"""

from __future__ import annotations

QUESTIONS: tuple[str, ...] = (
    # English
    "How many {letter} are in {word}",
    "How many {letter} are there in {word}",
    "How many times does {letter} occur in {word}",
    "How many times can you find {letter} in {word}",
    "How many letters of {word} are {letter}",
    "How often does {letter} come up in {word}",
    "How often is {letter} used in {word}",
    "How often do you write {letter} when you spell {word}",
    "How frequent is {letter} in {word}",
    "Count the {letter} in {word}",
    "Count how often {letter} stands in {word}",
    "Please count {letter} in the word {word}",
    "Can you count the letter {letter} in {word}",
    "Could you tell me how many {letter} {word} has",
    "Would you count every {letter} in {word} for me",
    "What is the number of {letter} in {word}",
    "What is the count of {letter} within {word}",
    "What number of times is {letter} in {word}",
    "In {word}, how many {letter} are there",
    "In the word {word}, how often do you see {letter}",
    "Inside {word}, how many times is there a {letter}",
    "Take the word {word}. How many {letter} does it have",
    "Does {word} contain {letter}, and how many times",
    "Tell me how many {letter} {word} contains",
    "Tell me how often {letter} turns up in {word}",
    "I want to know how many {letter} are in {word}",
    "Number of {letter} in {word}",
    "Quick question: how many {letter} in {word}",
    "If I write {word}, how many {letter} do I write",
    "Spell {word} and count the {letter}",
    # Spanish
    "¿Cuántas veces está {letter} en {word}",
    "¿Cuántas {letter} tiene {word}",
    "¿Con qué frecuencia aparece {letter} en {word}",
    "Cuenta las {letter} de la palabra {word}",
    # Chinese
    "{word}里有几个{letter}",
    "单词{word}中一共有多少个{letter}",
    "请数一数{word}里的{letter}",
    "{letter}在{word}中出现几次",
    # Korean
    "{word}에는 {letter}가 몇 개 있나요",
    "{word}에서 {letter}를 세어 주세요",
    "단어 {word} 안에 {letter}가 몇 번 나오나요",
    "{word} 속의 {letter}는 모두 몇 개인가요",
    # French
    "Combien y a-t-il de {letter} dans {word}",
    "Combien de fois voit-on {letter} dans le mot {word}",
    "Compte les {letter} dans {word}",
    # German
    "Wie viele {letter} stehen in {word}",
    "Wie oft kommt {letter} im Wort {word} vor",
    "Zähle die {letter} in {word}",
    # Japanese
    "{word}には{letter}がいくつありますか",
    "単語{word}に{letter}は何回出てきますか",
    "{word}の中の{letter}を数えてください",
)
