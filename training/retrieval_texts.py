"""A small search task written for this project: questions, their answers, and sentences that only sound alike.

It is no benchmark of search; it shows what a number format loses against float32 on the same model. Answers are put in
other words than their question, and near misses share words with it, so that ranks depend on more than a word or two.
"""

from encoder.retrieval import Retrieval

# (question, answers, near misses)
_TASK: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    (
        "I forgot my password",
        ("Use the link on the sign-in page to choose new login details.", "Lost access can be restored by e-mail."),
        ("Never tell a colleague your password.", "A strong password has twelve characters or more."),
    ),
    (
        "my parcel has not arrived",
        ("Shipments that are late can be traced with their number.", "We resend goods that were lost on the way."),
        ("Parcels up to two kilos go as letters.", "The parcel counter opens at nine."),
    ),
    (
        "how do I cancel my subscription",
        ("Plans end in your account under billing, at the close of the month.",),
        ("A subscription includes two guest seats.", "How to renew a subscription that has lapsed"),
    ),
    (
        "the app crashes when I open it",
        ("Reinstall the program if it closes right after launch.", "Start-up faults are often cured by an update."),
        ("The app opens pictures of any size.", "Opening an account in the app takes five minutes."),
    ),
    (
        "why was I charged twice",
        ("A duplicate debit is returned within three days.", "One of the two bookings is only a reservation."),
        ("Charging the battery twice a week is enough.", "Why we charge for paper invoices"),
    ),
    (
        "can I change the delivery address",
        ("Where an order goes can be altered until it is packed.",),
        ("Our postal address has changed.", "Delivery to an upper floor costs extra."),
    ),
    (
        "my card was swallowed by the machine",
        ("If a cash point keeps your bank card, block it and ask for a new one.",),
        ("The vending machine takes cards and coins.", "Swallow the tablet with a glass of water."),
    ),
    (
        "what does shipping abroad cost",
        ("Postage to other countries depends on weight and zone.",),
        ("Studying abroad costs less than many think.", "Shipping containers stand in the harbour."),
    ),
    (
        "I want my money back",
        ("A refund goes to the account you paid from.", "Goods may be returned within thirty days."),
        ("Money grows slowly in a savings account.", "Bring your own money to the market."),
    ),
    (
        "how long is the guarantee",
        ("The maker repairs faults free of charge for two years.",),
        ("The bridge is nearly a mile long.", "There is no guarantee that it will rain."),
    ),
    (
        "the invoice shows the wrong company name",
        ("Billing details can be corrected and the document issued anew.",),
        ("The company was named after its founder.", "Invoices are sent on the first of the month."),
    ),
    (
        "talk to a human",
        ("Our staff answer calls from eight to six.", "Ask for an agent in the chat window."),
        ("The human body has about two hundred bones.", "The talk was followed by a reception."),
    ),
    (
        "the screen stays black",
        ("If the display shows nothing, check the cable and the power supply.",),
        ("The screen is made of black glass.", "Black and white films are shown on Sundays."),
    ),
    (
        "wifi keeps dropping",
        ("Move the router away from walls when the wireless connection breaks off.",),
        ("The temperature keeps dropping at night.", "Guests get the wifi code at the desk."),
    ),
    (
        "how to move my data to a new phone",
        ("Contacts and pictures can be transferred between handsets by cable.",),
        ("The phone rang while we were moving house.", "Mobile data costs more across the border."),
    ),
    (
        "is my data encrypted",
        ("Files are stored so that nobody without the key can read them.",),
        ("Data on rainfall is published every day.", "The tomb held scripts that were never read."),
    ),
    (
        "the printer prints stripes",
        ("Clean the heads if lines appear on the page.",),
        ("Zebras have stripes.", "The printer is on the second floor."),
    ),
    (
        "add a colleague to my team account",
        ("Administrators invite members under settings.",),
        ("My colleague plays in a football team.", "The team lost its account manager."),
    ),
    (
        "verify my identity",
        ("We check a passport or a licence against a picture of you.",),
        ("A nation's identity changes over time.", "Verify that the gas is turned off."),
    ),
    (
        "the exchange rate looks wrong",
        ("Foreign currency is converted at the day's price plus one percent.",),
        ("The students on exchange arrive in May.", "Something looks wrong with the roof."),
    ),
    (
        "how do I close my account for good",
        ("Deleting your profile removes all that we know of you.",),
        ("The accountant closes her office at noon.", "A good account of the battle is in chapter three."),
    ),
    (
        "can I pay by instalments",
        ("The price may be split over twelve months.",),
        ("The novel appeared in instalments.", "Payment by cheque is no longer possible."),
    ),
    (
        "do you have it in a larger size",
        ("This coat comes from small to extra wide.",),
        ("The size of the universe is not known.", "Do you have the time?"),
    ),
    (
        "the seat I booked is taken",
        ("Show your reservation to the conductor if someone sits in your place.",),
        ("The seat of the government is in the north.", "The book was taken from the shelf."),
    ),
    (
        "my flight was delayed, what am I owed",
        ("Air passengers are compensated when they land three hours late.",),
        ("The flight of the swallow is swift.", "What is owed to the bank must be repaid by June."),
    ),
    (
        "may I bring my dog to the hotel",
        ("Pets are welcome in rooms on the ground floor.",),
        ("The hot dog stand is beside the hotel.", "Dogs must be kept on a lead in the park."),
    ),
    (
        "best time to plant tomatoes",
        ("Set out the seedlings once the last frost has passed.",),
        ("The canning plant closes for a time in winter.", "Tomatoes go well with basil."),
    ),
    (
        "how to remove a red wine stain",
        ("Put salt on the spilled claret and rinse it with cold water.",),
        ("Red wine goes with the roast.", "The stained glass was removed for cleaning."),
    ),
    (
        "why is the sky blue",
        ("Air scatters short wavelengths of sunlight more than long ones.",),
        ("Her blue dress matched the sky.", "Why the blues began in the south"),
    ),
    (
        "who wrote the play about the Danish prince",
        ("Hamlet is by Shakespeare.",),
        ("Children play at the Danish embassy's feast.", "The prince wrote letters from exile."),
    ),
    (
        "symptoms of a cold",
        ("A runny nose, a sore throat and sneezing point to a mild infection.",),
        ("Cold water boils later than warm.", "It was a cold day in March."),
    ),
    (
        "how far away is the moon",
        ("The earth's satellite circles at about 384,000 kilometres.",),
        ("The moon festival is celebrated in autumn.", "How far the apple falls from the tree"),
    ),
    (
        "what makes bread rise",
        ("Yeast gives off gas that lifts the dough.",),
        ("The price of bread will rise again.", "The sun rises at six."),
    ),
    (
        "learn to swim as an adult",
        ("The pool offers evening lessons for grown-up beginners.",),
        ("Adult salmon swim up the river.", "Learn the names of the trees."),
    ),
    (
        "my knee hurts after running",
        ("Pain in the joint often comes from too many miles in old shoes.",),
        ("He went down on one knee.", "The tap was left running."),
    ),
    (
        "how do vaccines work",
        ("The body meets a harmless part of a germ and remembers it.",),
        ("The works canteen serves lunch until two.", "Vaccines are kept in the fridge."),
    ),
    (
        "cheapest way to the airport",
        ("The bus to the terminal costs less than the train or a taxi.",),
        ("The airport was built on cheap land.", "There is no easy way to learn the violin."),
    ),
    (
        "is it going to rain tomorrow",
        ("The forecast for the next day promises showers.",),
        ("The train is going to the coast tomorrow.", "It rained when they were married."),
    ),
    (
        "how to tie a tie",
        ("Cross the wide end over the narrow one and pull it through the loop.",),
        ("The match ended in a tie.", "Family ties matter more with age."),
    ),
    (
        "which battery does the remote take",
        ("The control needs two cells of the size AAA.",),
        ("The village is remote and has no shop.", "The drummer beat a battery of drums."),
    ),
    (
        "teach my child to read",
        ("Sounding out letters together every evening helps a beginner with books.",),
        ("The teacher read the list of the children.", "Read the meter once a year."),
    ),
    (
        "report a lost wallet",
        ("Tell the police and your bank when your purse is gone.", "The lost property office keeps finds for a year."),
        ("The annual report shows a loss.", "A wallet of leather lasts ten years."),
    ),
    (
        "vegetarian dinner for guests",
        ("A meatless lasagne feeds eight and can be made ahead.",),
        ("The dinner guests talked of hunting.", "Vegetables should be washed."),
    ),
    (
        "job interview tips",
        ("Prepare questions for the employer and arrive ten minutes early.",),
        ("The singer gave an interview.", "Leave the waiter a tip of ten percent."),
    ),
    (
        "the engine makes a strange noise",
        ("A rattle under the bonnet should be looked at by a mechanic.",),
        ("Search engines rank pages.", "A strange noise woke the owls."),
    ),
    (
        "lower my heating bill",
        ("Insulating the attic saves gas in winter.", "Turn the radiators down by one degree at night."),
        ("The bill was heatedly debated in parliament.", "The lower lake freezes first."),
    ),
    (
        "find a flat near the university",
        ("Student rooms are advertised on the board of the faculty.",),
        ("The land is flat near the river.", "The university was founded in 1409."),
    ),
    (
        "when does the museum open",
        ("The collection can be visited daily except on Mondays from ten.",),
        ("The open-air concert is in August.", "The museum was a railway station once."),
    ),
)


def retrieval_probe() -> Retrieval:
    """Some 200 texts: a question is to find its answers, and an answer its question and the other answers."""
    texts: list[str] = []
    relevant: list[tuple[int, ...]] = []
    for question, answers, misses in _TASK:
        first = len(texts)
        group = range(first, first + 1 + len(answers))
        texts += [question, *answers, *misses]
        relevant += [tuple(other for other in group if other != index) for index in group] + [()] * len(misses)
    return Retrieval(tuple(texts), tuple(relevant))
