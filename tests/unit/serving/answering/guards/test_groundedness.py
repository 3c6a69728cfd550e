from antiphon.serving.answering.guards.groundedness import ungrounded

DOCUMENTS = ("Orders are refunded within 5 days of the return.", "parcel 4711")


def test_sentences_of_the_documents_pass() -> None:
    assert ungrounded("Your order is refunded within 5 days. The parcel 4711 was returned.", DOCUMENTS, 0.5) == []


def test_other_numbers_and_other_words_do_not() -> None:
    assert ungrounded("Orders are refunded within 7 days.", DOCUMENTS, 0.5) == [
        "sentence 1 has the number 7, which is in no document"
    ]
    assert ungrounded("Orders are refunded. Elephants dance beautifully tonight.", DOCUMENTS, 0.5) == [
        "sentence 2 has 0 of 4 words from the documents"
    ]
